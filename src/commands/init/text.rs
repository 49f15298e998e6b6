//! The text of a configuration, with comments that say what was found and what to change.

use std::path::Path;

use crate::config::RunConfig;
use crate::data::EvalSource;
use crate::error::{Error, Result};
use crate::toolkit::{Base, Expected};
use crate::train::config::TrainConfig;
use crate::train::course::Course;

/// What was found out about a run.
pub(super) struct Facts<'a> {
    pub expected: Expected,
    pub course: Course,
    pub base: &'a Base,
    /// Whether the tokenizer has a chat template.
    pub has_template: bool,
    /// What the data made to be noticed.
    pub notes: Vec<String>,
    /// Packed tokens per second, as measured.
    pub speed: Option<f64>,
    /// The file that is written.
    pub file: &'a Path,
}

impl Facts<'_> {
    /// What the run will do and take, and what looks wrong.
    pub(super) fn said(&self) -> Vec<String> {
        let Expected { tokens, peak, is_on_gpu, .. } = self.expected;
        let mut lines = vec![self.course.to_string()];
        let place = if is_on_gpu { "of the GPU's memory" } else { "of memory" };
        let mut takes = format!("about {:.1} GB {place} at its peak", peak as f64 / 1e9);
        if peak < 1_000_000_000 {
            takes = format!("about {:.0} MB {place} at its peak", peak as f64 / 1e6);
        }
        match self.speed {
            Some(speed) => lines.push(format!(
                "about {} on this machine, without evaluations ({speed:.0} tokens per second in a step), {takes}",
                duration(tokens / speed.max(1e-9))
            )),
            None => lines.push(takes),
        }
        lines.extend(self.notes.iter().cloned());
        lines.extend(self.course.warnings().iter().map(|warning| format!("warning: {warning}")));
        lines
    }
}

/// A time for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "a second".into(),
        s if s < 90.0 => format!("{s:.0} seconds"),
        s if s < 5400.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

/// A value as YAML in one line: JSON, without quotes where YAML needs none.
fn value(of: &impl serde::Serialize) -> Result<String> {
    let json = serde_json::to_string(of).map_err(|error| Error::Config(error.to_string()))?;
    let plain = json.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let is_plain = |text: &str| {
        let words = ["null", "true", "false", "yes", "no", "on", "off"];
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            || ["./", "../"].iter().any(|start| text.starts_with(start));
        begins
            && text.parse::<f64>().is_err()
            && !words.contains(&text.to_lowercase().as_str())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    Ok(plain.filter(|text| is_plain(text)).map_or(json.clone(), str::to_string))
}

/// A number as people write it: 32, 0.5, 1.0e-4.
fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-2 {
        let text = format!("{value:e}");
        // YAML 1.1 takes 1e-4 for a string.
        if text.contains('.') { text } else { text.replacen('e', ".0e", 1) }
    } else {
        value.to_string()
    }
}

/// A comment that cannot end its line.
fn comment(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The file. `base` is the base as it was named.
///
/// # Errors
/// If a value cannot be written.
pub(super) fn text(config: &RunConfig, base: &str, facts: &Facts) -> Result<String> {
    let mut text = format!("# Written by dpo-lora {} init. It is used with:\n", env!("CARGO_PKG_VERSION"));
    let mut add = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    add(format!("#     dpo-lora train -c {}", comment(&crate::files::shell_word(facts.file))));
    add("# Every key and its default: the page Configuration of the book; --set SECTION.KEY=VALUE overrides one.".into());
    add("#".into());
    facts.said().iter().for_each(|line| add(format!("# {}", comment(line))));
    let RunConfig { train, lora, .. } = config;
    let spec = &facts.base.spec;
    let line = |key: &str, value: String, why: &str| {
        let setting = format!("{key}: {value}");
        if why.is_empty() { setting } else { format!("{setting:<38} # {}", comment(why)) }
    };
    add(String::new());
    add(line("output_dir", value(&config.output_dir)?, "checkpoints, metrics, report, adapter"));
    add("\nmodel:".into());
    let kind = format!("{}, {} layers", spec.model_type, spec.layers.len());
    add(line("  base", value(&base)?, &kind));
    add("\nlora:".into());
    let trained = format!("rank: {} parameters are trained; 8 is often enough", facts.expected.parameters);
    add(line("  r", value(&lora.r)?, &trained));
    add(line("  lora_alpha", number(lora.lora_alpha), "the adapter is scaled by lora_alpha / r"));
    add("\ndata:".into());
    data(config, facts, &mut add, &line)?;
    add("\nobjective:".into());
    objective(config, &mut add, &line)?;
    add("\ntrain:".into());
    add(line("  num_train_epochs", number(train.num_train_epochs), "passes over the data"));
    add(line(
        "  learning_rate",
        number(train.learning_rate),
        "the most important setting; `dpo-lora lr-find` compares some",
    ));
    batches(train, &mut add, &line)?;
    add(line("  logging_steps", value(&train.logging_steps)?, ""));
    add("  # eval_steps: 50                     # evaluate in between; needs data.eval".into());
    add("  # save_steps: 100                    # checkpoints by steps; else there is one every ten minutes"
        .into());
    Ok(text)
}

/// The records of a step, and the micro-batches in which they are computed.
fn batches(
    train: &TrainConfig,
    add: &mut impl FnMut(String),
    line: &impl Fn(&str, String, &str) -> String,
) -> Result<()> {
    let (batch, accumulated) = (train.per_device_train_batch_size, train.gradient_accumulation_steps);
    let why = if accumulated == 1 { "records in a step" } else { "records that are computed at once" };
    add(line("  per_device_train_batch_size", value(&batch)?, why));
    if accumulated != 1 {
        let why = format!("as often, for {} records in a step", batch * accumulated);
        add(line("  gradient_accumulation_steps", value(&accumulated)?, &why));
    }
    Ok(())
}

/// The data, and how they become tokens.
fn data(
    config: &RunConfig,
    facts: &Facts,
    add: &mut impl FnMut(String),
    line: &impl Fn(&str, String, &str) -> String,
) -> Result<()> {
    let data = &config.data;
    add(line("  train", value(&data.train)?, ""));
    add(eval_line(config, line)?);
    let positions = facts.base.spec.max_positions;
    let most = match data.max_length {
        Some(length) if length == positions => format!(", and the model has {positions} positions"),
        _ => String::new(),
    };
    let longest = facts.expected.longest;
    let length = format!("tokens of prompt and answer; the longest has {longest}{most}");
    add(line("  max_length", value(&data.max_length)?, &length));
    let template = match (&data.chat_template, facts.has_template) {
        (Some(_), _) => "the base has none, and conversations need one: take the one that it was made for",
        (None, true) => "null: the base's own; it is applied to conversations, strings are taken as they are",
        (None, false) => "the base has none; conversations need one, such as chatml",
    };
    add(line("  chat_template", value(&data.chat_template)?, template));
    Ok(())
}

fn eval_line(config: &RunConfig, line: &impl Fn(&str, String, &str) -> String) -> Result<String> {
    Ok(match &config.data.eval {
        Some(EvalSource::Fraction(share)) => line(
            "  eval",
            value(share)?,
            "the share of the records that is held out to measure what was learned",
        ),
        Some(EvalSource::Sources(sources)) => line("  eval", value(sources)?, "held out"),
        None => line("  eval", "null".into(), "too few records to hold some out; name a file"),
    })
}

/// The loss with its parameters.
fn objective(
    config: &RunConfig,
    add: &mut impl FnMut(String),
    line: &impl Fn(&str, String, &str) -> String,
) -> Result<()> {
    let written = serde_json::to_value(&config.objective).map_err(|e| Error::Config(e.to_string()))?;
    let why = |key: &str| match key {
        "loss_type" => "the page Losses of the book says which one to choose",
        "beta" => "strength of the pull towards the base: 0.01 to 0.5",
        _ => "",
    };
    // Everything else is null, or a parameter whose default is the paper's.
    for key in ["loss_type", "beta"] {
        if let Some(found) = written.get(key) {
            add(line(&format!("  {key}"), value(found)?, why(key)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_plain_where_yaml_reads_them_so() {
        let read = |text: &str| {
            let written = value(&text).unwrap();
            let back: serde_yaml::Value = serde_yaml::from_str(&format!("a: {written}")).unwrap();
            assert_eq!(back["a"].as_str(), Some(text), "{written}");
            written
        };
        assert_eq!(read("pairs/a.jsonl"), "pairs/a.jsonl");
        for text in
            ["1e5", "null", "Yes", "a: b", "*.jsonl", "hub:o/n", "a #b", ".5", "é", "-x", ".inf", "a\"b"]
        {
            assert!(read(text).starts_with('"'), "{text}");
        }
        assert_eq!(value(&["a", "b"]).unwrap(), "[\"a\",\"b\"]");
    }

    #[test]
    fn numbers_are_written_as_people_do_and_read_back() {
        for (value, text) in [(32.0, "32"), (0.5, "0.5"), (1e-4, "1.0e-4"), (2.5e-5, "2.5e-5"), (0.0, "0")] {
            assert_eq!(number(value), text);
            assert_eq!(serde_yaml::from_str::<f64>(text).unwrap(), value);
        }
    }

    #[test]
    fn times_are_rounded() {
        let all = [0.2, 75.0, 600.0, 9000.0].map(duration);
        assert_eq!(all, ["a second", "75 seconds", "10 minutes", "2.5 hours"]);
    }
}
