//! The `data:` section of the YAML.

use serde::{Deserialize, Serialize};

use super::columns::Columns;
use super::filter::Filter;
use super::findings::OnError;
use super::schema::Schema;
use super::sources::{DataSource, EvalSource, Sources};
use super::template;
use super::truncate::{Truncation, TruncationMode};
use crate::error::{Error, Result};
use crate::files::CacheChoice;

/// The data to train and evaluate on, and how it is tokenized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Preference pairs to train on.
    pub train: Sources,
    /// The data to evaluate on: sources like `train`, or a fraction of `train` to hold out. `null`: no evaluation.
    #[serde(default)]
    pub eval: Option<EvalSource>,
    /// The schema of all rows (`hh-rlhf`, `orca-dpo-pairs`, ...; see [`Schema`]), or `mixed` for files whose rows have
    /// different ones. `null`: each file has the schema that its columns tell.
    #[serde(default)]
    pub format: Option<String>,
    /// New names of columns: `{prompt: question}` reads `question` as the prompt, `{notes: null}` leaves `notes` out.
    #[serde(default)]
    pub columns: Columns,
    /// A condition for the rows to keep, such as `chosen_score - rejected_score >= 1`. It reads the columns under the
    /// names of the file. `null`: all rows.
    #[serde(default)]
    pub filter: Option<String>,
    /// Maximum number of records to train on, from the beginning of the data. `null`: all.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Whether invalid records stop the run (`stop`; all are listed), or are counted, listed in `skipped.jsonl` of the run's
    /// directory and left out (`skip`).
    #[serde(default)]
    pub on_error: OnError,
    /// Where data of over 64 MB are kept once they are tokenized: `auto` (the user's cache directory), `off` (in memory),
    /// or a directory.
    #[serde(default)]
    pub cache: CacheChoice,
    /// Maximum number of tokens in a sequence (prompt and completion). `null`: no limit.
    #[serde(default = "default_max_length")]
    pub max_length: Option<usize>,
    /// Maximum number of tokens in a prompt; the end of a longer prompt is kept. `null`: no separate limit.
    #[serde(default)]
    pub max_prompt_length: Option<usize>,
    /// Which end of a sequence longer than `max_length` is kept.
    #[serde(default)]
    pub truncation_mode: TruncationMode,
    /// The chat template: Jinja text, the path of a file that contains it, the name of one of the model's own
    /// templates, or a built-in one (`chatml`, `gemma`, `llama3`, `mistral`, `phi`, `qwen`, `zephyr`). `null`: the
    /// tokenizer's own template.
    #[serde(default)]
    pub chat_template: Option<String>,
    /// The time that `strftime_now` returns in the template: an ISO 8601 date, or date and time. `null`: the current
    /// time, which the run stores so that resuming on another day gives the same tokens.
    #[serde(default)]
    pub chat_template_date: Option<String>,
}

/// TRL's default for `max_length`.
#[expect(clippy::unnecessary_wraps, reason = "serde's default must have the field's type")]
fn default_max_length() -> Option<usize> {
    Some(1024)
}

impl DataConfig {
    /// Creates a section with defaults for everything except `train`, which has no default.
    pub fn new(train: Sources) -> Self {
        Self {
            train,
            eval: None,
            format: None,
            columns: Columns::default(),
            filter: None,
            limit: None,
            on_error: OnError::default(),
            cache: CacheChoice::default(),
            max_length: default_max_length(),
            max_prompt_length: None,
            truncation_mode: TruncationMode::default(),
            chat_template: None,
            chat_template_date: None,
        }
    }

    /// Returns the truncation settings.
    pub fn truncation(&self) -> Truncation {
        Truncation {
            max_length: self.max_length,
            max_prompt_length: self.max_prompt_length,
            mode: self.truncation_mode,
        }
    }

    /// Checks the values and reports all invalid ones in one message.
    ///
    /// # Errors
    /// Returns [`Error::Config`], which names each invalid key, its value and the remedy.
    pub fn validate(&self) -> Result<()> {
        let mut wrong = Vec::new();
        if self.train.0.is_empty() {
            wrong.push("data.train is an empty list; name at least one file".to_string());
        }
        match &self.eval {
            Some(EvalSource::Fraction(f)) if !(*f > 0.0 && *f < 1.0) => {
                wrong.push(format!("data.eval is {f}; a held-out fraction lies between 0 and 1"));
            }
            Some(EvalSource::Sources(s)) if s.0.is_empty() => {
                wrong.push("data.eval is an empty list; name a file, or leave it null".into());
            }
            _ => {}
        }
        wrong.extend(self.reading_problems());
        if let Some(length @ 0..2) = self.max_length {
            wrong.push(format!(
                "data.max_length is {length}; a sequence needs at least 2 tokens, one to predict and one to predict it \
                 from (null: no limit)"
            ));
        }
        match (self.max_prompt_length, self.max_length) {
            (Some(0), _) => wrong.push("data.max_prompt_length is 0; use null for no limit".into()),
            (Some(prompt), Some(length)) if prompt >= length => wrong.push(format!(
                "data.max_prompt_length ({prompt}) must be below data.max_length ({length}), or no completion fits"
            )),
            _ => {}
        }
        if let Some(Err(error)) = self.chat_template_date.as_deref().map(template::moment) {
            wrong.push(format!("data.chat_template_date is {error}"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::Config(wrong.join("\n"))) }
    }

    /// Returns what is wrong with the keys that say how rows are read, and with those of single sources.
    fn reading_problems(&self) -> Vec<String> {
        let mut wrong =
            reading_problems("data", self.format.as_deref(), &self.columns, self.filter.as_deref());
        if self.limit == Some(0) {
            wrong.push("data.limit is 0; use null for no limit".into());
        }
        let held_out: &[DataSource] = match &self.eval {
            Some(EvalSource::Sources(sources)) => &sources.0,
            Some(EvalSource::Fraction(_)) | None => &[],
        };
        for (name, sources) in [("data.train", self.train.0.as_slice()), ("data.eval", held_out)] {
            for (i, source) in sources.iter().enumerate() {
                let place = format!("{name}[{i}]");
                wrong.extend(source.problems(&place));
                wrong.extend(reading_problems(&place, source.format(), source.columns(), source.filter()));
            }
        }
        wrong
    }
}

/// The value of `data.format` for files whose rows have different schemas.
pub(super) const MIXED: &str = "mixed";

fn reading_problems(
    place: &str,
    format: Option<&str>,
    columns: &Columns,
    filter: Option<&str>,
) -> Vec<String> {
    let mut wrong = columns.problems(&format!("{place}.columns"));
    if let Some(Err(error)) = format.filter(|name| *name != MIXED).map(Schema::parse) {
        wrong.push(format!("{place}.format: {error}"));
    }
    if let Some(Err(error)) = filter.map(Filter::parse) {
        wrong.push(format!("{place}.filter {error}"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<DataConfig, serde_yaml::Error> {
        serde_yaml::from_str(yaml)
    }

    #[test]
    fn defaults_are_the_designs() {
        let config = parse("train: pairs.jsonl").unwrap();
        assert_eq!(config, DataConfig::new("pairs.jsonl".into()));
        assert_eq!((config.max_length, config.truncation_mode), (Some(1024), TruncationMode::KeepStart));
        config.validate().unwrap();
    }

    #[test]
    fn every_key_survives_a_round_trip() {
        let yaml = "train: [a.jsonl, 'b/*.jsonl']\neval: 0.05\nmax_length: null\nmax_prompt_length: 7\n\
                    truncation_mode: keep_end\nchat_template: t.jinja\nformat: hh-rlhf\ncolumns: {prompt: q, x: null}\n\
                    filter: a > 1\nlimit: 9\n";
        let config = parse(yaml).unwrap();
        assert_eq!(config.train.paths(), ["a.jsonl", "b/*.jsonl"]);
        assert_eq!(config.eval, Some(EvalSource::Fraction(0.05)));
        assert_eq!(config.max_length, None);
        assert_eq!(config.truncation_mode, TruncationMode::KeepEnd);
        assert_eq!(parse(&serde_yaml::to_string(&config).unwrap()).unwrap(), config);
        let eval = parse("train: a\neval: b.jsonl").unwrap().eval;
        assert_eq!(eval, Some(EvalSource::Sources("b.jsonl".into())));
    }

    #[test]
    fn wrong_types_and_keys_say_what_is_expected() {
        assert!(parse("train: 3").unwrap_err().to_string().contains("expected a file, glob or directory"));
        assert!(
            parse("train: a\neval: {x: 1}").unwrap_err().to_string().contains("a fraction between 0 and 1")
        );
        assert!(parse("train: a\nmax_len: 3").unwrap_err().to_string().contains("max_len"));
        assert!(parse("eval: a").unwrap_err().to_string().contains("train"));
    }

    #[test]
    fn validate_names_every_wrong_value_at_once() {
        let config = parse("train: []\neval: 1\nmax_length: 1\nmax_prompt_length: 4").unwrap();
        let message = config.validate().unwrap_err().to_string();
        let yaml = "train: [{path: a, weight: 0, format: hh}, {path: b, filter: 'a >', format: shpp}]\nformat: alpacca\n\
                    columns: {prompt: q, chosen: q}\nfilter: 'a = 1'\nlimit: 0\neval: [{path: c, split: test}]";
        let reading = parse(yaml).unwrap().validate().unwrap_err().to_string();
        for part in [
            "data.train[0].weight is 0",
            "data.train[1].filter at its end: expected a value",
            "data.train[1].format: `shpp` is no known format; did you mean `shp`?",
            "data.format: `alpacca` is no known format; did you mean `alpaca`?",
            "data.columns reads q as chosen and as prompt",
            "data.filter at column 3: `=` is no operator",
            "data.limit is 0",
            "data.eval[0].split is test",
        ] {
            assert!(reading.contains(part), "{part}: {reading}");
        }
        parse("train: a\nformat: mixed").unwrap().validate().unwrap();
        for part in ["data.train", "data.eval is 1", "data.max_length is 1", "data.max_prompt_length (4)"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
