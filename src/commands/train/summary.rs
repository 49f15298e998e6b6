//! What a run says when it is over: its curves, its accuracy on held-out pairs, and what to do next.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::compared::compared;
use super::super::output::{print_json, print_text, say};
use super::super::report;
use crate::adapter::read::{self, Nature};
use crate::config::RunConfig;
use crate::data::EvalSource;
use crate::error::Result;
use crate::eval::preference::{Evaluation, wilson};
use crate::files::shell_word;
use crate::objective::Objective;
use crate::report::{log, samples, screen, sparkline};
use crate::toolkit::{Base, embedded};
use crate::train::reference::ReferenceCache;
use crate::train::trainer::Trainer;

/// Characters of a curve, at most.
const CURVE: usize = 48;

/// Prompts whose completions are shown.
const SHOWN: usize = 3;

/// What the summary leaves out, and what it is of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told<'a> {
    /// Everything but the accuracy on held-out pairs.
    pub quiet: bool,
    /// Completions were shown already.
    pub samples: bool,
    /// Standard output is for a program.
    pub json: bool,
    /// The stage that is over, of a run of several.
    pub stage: Option<&'a str>,
}

/// Prints the summary: to standard output the accuracy on held-out pairs, to standard error the rest. Returns the event of the
/// end.
pub(super) fn conclude(
    trainer: &mut Trainer,
    objective: &Objective,
    directory: &Path,
    (seconds, told): (f64, Told),
) -> Result<Value> {
    let quiet = told.quiet;
    let after = trainer.evaluate()?;
    let page = report::write(&[directory.to_path_buf()], &directory.join("report.html"));
    if let Err(error) = &page {
        say(&format!("warning: the report is not written: {error}"));
    }
    if !quiet {
        curves(directory).iter().for_each(|line| say(line));
        let shown = samples(&directory.join("samples.jsonl"));
        let shown: Vec<String> = shown.iter().take(SHOWN).filter_map(compared).collect();
        if !told.samples && !shown.is_empty() {
            say(&format!("{}\n", shown.join("\n")));
        }
    }
    let name = if told.stage.is_some() { "stage_finished" } else { "finished" };
    let mut event = json!({
        "event": name,
        "step": trainer.step(),
        "run": directory,
        "adapter": directory.join("adapter"),
        "evaluation": after.as_ref().map(Evaluation::summary),
    });
    if let Some(stage) = told.stage {
        event["stage"] = json!(stage);
    }
    // Frozen adapters, also a copy of what the run began with, are a part of its reference, and not of that of `eval`.
    let of_base = trainer.policy().frozen.is_empty() || !objective.needs().reference;
    if told.json {
        print_json(&event)?;
    } else if let Some(text) = after.and_then(|after| held_out(trainer.initial_accuracy()?, &after, of_base))
    {
        print_text(&text)?;
    }
    if !quiet {
        let adapter = directory.join("adapter");
        let passes = reference_passes(trainer.reference());
        say(&format!("trained in {seconds:.1} s; {passes}; adapter: {}", adapter.display()));
        if page.is_ok() {
            say(&format!("curves, warnings and settings: {}", directory.join("report.html").display()));
        }
    }
    Ok(event)
}

/// Tells a program that all stages are over: where the run and its adapter are, and what the end of the last stage says.
pub(super) fn conclude_stages(last: &Value, directory: &Path, adapter: &Path) -> Result<()> {
    print_json(&json!({
        "event": "finished",
        "step": last["step"],
        "run": directory,
        "adapter": adapter,
        "evaluation": last["evaluation"],
    }))
}

/// Loss and margin of the whole run, as far as its log tells.
fn curves(directory: &Path) -> Vec<String> {
    let Ok(lines) = log::read(&directory.join("metrics.jsonl")) else { return Vec::new() };
    let width = CURVE.min(screen::columns().saturating_sub(32));
    let curve = |(key, name, digits): (&str, &str, usize)| {
        let values: Vec<f64> = lines.iter().filter_map(|line| line.value(key)).collect();
        let (first, last) = (values.first()?, values.last()?);
        // One value is no curve.
        (values.len() > 1)
            .then(|| format!("{name:<7} {}  {first:.digits$} → {last:.digits$}", sparkline(&values, width)))
    };
    [("loss", "loss", 4), ("rewards/margins", "margin", 3)].into_iter().filter_map(curve).collect()
}

/// Accuracies before and after with their intervals, and what they count. `of_base`: the rewards are against the bare base, as
/// those of `eval`.
fn held_out(before: f64, after: &Evaluation, of_base: bool) -> Option<String> {
    let metrics = after.metrics();
    let pairs = metrics.comparisons();
    let share = |share: f64| {
        let (low, high) = wilson(share, pairs as f64);
        format!("{:.1} % ({:.1}–{:.1})", 100.0 * share, 100.0 * low, 100.0 * high)
    };
    let Some(likelier) = metrics.logp_accuracy() else {
        return Some(format!(
            "held-out accuracy: before {}, after {}\n  = share of {pairs} pairs whose chosen completion has the greater reward (95 % \
             intervals)\n",
            share(before),
            share(metrics.accuracy()?)
        ));
    };
    let mut text = format!(
        "held-out accuracy: before {}, after {}\n  = share of {pairs} pairs whose chosen completion is likelier (95 % intervals)\n",
        share(before),
        share(likelier)
    );
    if let Some(by_reward) = metrics.accuracy() {
        let against = match of_base {
            true => "as `dpo-lora eval` has it",
            false => "against the run's own reference, which `dpo-lora eval` does not have",
        };
        text.push_str(&format!("  by reward, {against}: after {}\n", share(by_reward)));
    }
    Some(text)
}

/// What the run had from the cache.
fn reference_passes(reference: &ReferenceCache) -> String {
    match reference.computed {
        0 => "no reference pass was made".into(),
        computed => format!("reference log-probs of {computed} pairs were computed"),
    }
}

/// Commands to copy. `frozen` are the adapters below the one that was trained: without them it is another policy.
pub(super) fn next(config: &RunConfig, frozen: &[PathBuf], base: &Base, adapter: &Path) -> String {
    let mut with = format!("--base {}", shell_word(Path::new(&base.name)));
    // The last one decides the loss, the template and the truncation.
    for adapter in frozen.iter().map(PathBuf::as_path).chain(std::iter::once(adapter)) {
        with.push_str(&format!(" --adapter {}", shell_word(adapter)));
    }
    let prompt = if base.name == embedded::NAME { "The film is about a sailor." } else { "YOUR PROMPT" };
    let is_reward = config.objective.resolve().is_ok_and(|objective| objective.needs().rewards);
    let mut text = match is_reward {
        true => format!("\nnext:\n  dpo-lora score {with} --data PAIRS\n"),
        false => format!("\nnext:\n  dpo-lora generate {with} --compare --prompt \"{prompt}\"\n"),
    };
    if let Some(EvalSource::Sources(sources)) = &config.data.eval
        && let [source] = &sources.0[..]
    {
        let data = source.path().to_string();
        text.push_str(&format!("  dpo-lora eval {with} --data {}\n", shell_word(Path::new(&data))));
    }
    if is_reward {
        return text.trim_end().to_string();
    }
    // What cannot be read is told where it is used.
    let nature =
        frozen.iter().map(PathBuf::as_path).chain([adapter]).filter_map(|path| read::nature(path).ok());
    match nature.max().unwrap_or(Nature::Lora) {
        Nature::Lora => {
            let file = adapter.with_extension("gguf");
            text.push_str(&format!("  dpo-lora export {with} --format gguf --output {}", shell_word(&file)));
        }
        Nature::Mergeable => {
            let merged = adapter.with_file_name("merged");
            text.push_str(&format!("  dpo-lora merge {with} --output {}", shell_word(&merged)));
        }
        Nature::Beside => {}
    }
    text.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolkit::OpenOptions;

    /// The last command after a run whose adapter, and the frozen one below it, have these settings.
    fn last(below: Option<&str>, own: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        let adapter = |name: &str, settings: &str| {
            let path = place.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("adapter_config.json"), format!("{{\"peft_type\": {settings}}}"))
                .unwrap();
            path
        };
        let name = format!("{}/tests/fixtures/models/llama", env!("CARGO_MANIFEST_DIR"));
        let base = Base::open_with(&name, &OpenOptions::on_cpu()).unwrap();
        let frozen: Vec<PathBuf> = below.into_iter().map(|settings| adapter("below", settings)).collect();
        let text = next(&RunConfig::new("b", "d"), &frozen, &base, &adapter("adapter", own));
        let last = text.lines().last().unwrap().trim().to_string();
        last.replace(&place.path().display().to_string(), "run").replace(&name, "base")
    }

    #[test]
    fn the_commands_are_those_that_work_with_the_adapter() {
        let (lora, dora) = ("\"LORA\"", "\"LORA\", \"use_dora\": true");
        let with = "--base base --adapter run/adapter";
        let export = format!("dpo-lora export {with} --format gguf --output run/adapter.gguf");
        assert_eq!(last(None, lora), export);
        for (below, own) in [
            (None, dora),
            (None, "\"LORA\", \"modules_to_save\": [\"lm_head\"]"),
            (None, "\"LORA\", \"trainable_token_indices\": [3]"),
            (Some(dora), lora),
        ] {
            let last = last(below, own);
            assert!(last.starts_with("dpo-lora merge --base base --adapter run/"), "{own}: {last}");
            assert!(last.ends_with(" --output run/merged"), "{own}: {last}");
        }
        for own in ["\"PREFIX_TUNING\"", "\"ADAPTER_LAYERS\""] {
            let last = last(Some(lora), own);
            assert!(last.starts_with("dpo-lora generate "), "{own}: {last}");
        }
    }
}
