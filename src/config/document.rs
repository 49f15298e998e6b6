//! A configuration between text and types: what the user wrote, laid over the defaults key by key, so that every
//! complaint can name its key, value and line.

mod lines;
mod settings;

use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

pub(super) use self::lines::line_of;
use self::lines::repeated;
use super::typed::{self, Mismatch};
use crate::error::{Error, Problems, Result, nearest};

/// Keys that have no default.
const REQUIRED: [(&str, &str, &str); 2] = [
    ("model", "base", "name a directory, a .gguf file or a Hub id such as Qwen/Qwen2.5-0.5B-Instruct"),
    ("data", "train", "name a file of preference pairs, such as pairs.jsonl"),
];

/// The key that makes several runs of one file.
pub(super) const STAGES: &str = "stages";

/// A YAML document and the keys it may hold.
pub(super) struct Document<'a> {
    text: &'a str,
    origin: &'a str,
    defaults: &'a Value,
    written: Value,
}

/// Short names, and names of other programs, that no spelling is near to.
const ALIASES: &[(&str, &str)] = &[
    ("lr", "train.learning_rate"),
    ("epochs", "train.num_train_epochs"),
    ("num_epochs", "train.num_train_epochs"),
    ("steps", "train.max_steps"),
    ("batch_size", "train.per_device_train_batch_size"),
    ("micro_batch_size", "train.per_device_train_batch_size"),
    ("grad_accum", "train.gradient_accumulation_steps"),
    ("accumulation", "train.gradient_accumulation_steps"),
    ("optimizer", "train.optim"),
    ("scheduler", "train.lr_scheduler_type"),
    ("warmup", "train.warmup_steps"),
    ("rank", "lora.r"),
    ("lora_r", "lora.r"),
    ("alpha", "lora.lora_alpha"),
    ("dropout", "lora.lora_dropout"),
    ("loss", "objective.loss_type"),
    ("base_model", "model.base"),
    ("model_name_or_path", "model.base"),
    ("dataset", "data.train"),
    ("train_file", "data.train"),
    ("eval_dataset", "data.eval"),
    ("output", "output_dir"),
];

impl<'a> Document<'a> {
    /// Parses `text`; `defaults` holds every known key.
    pub(super) fn new(text: &'a str, origin: &'a str, defaults: &'a Value) -> Result<Self> {
        let written = match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Null) => Value::Mapping(Mapping::new()),
            Ok(mapping @ Value::Mapping(_)) => mapping,
            Ok(other) => {
                return Err(Error::Config(format!(
                    "{origin} holds {}; it must hold keys: {}",
                    show(&other),
                    keys(defaults).join(", ")
                )));
            }
            Err(error) => return Err(Error::Config(invalid(text, origin, &error))),
        };
        Ok(Self::of(written, text, origin, defaults))
    }

    /// A document that is parsed already; `text` shows its lines.
    pub(super) fn of(written: Value, text: &'a str, origin: &'a str, defaults: &'a Value) -> Self {
        Self { text, origin, defaults, written }
    }

    /// Checks every key that is written by itself. Keys that are required may be missing.
    pub(super) fn check<T: DeserializeOwned>(&self) -> Result<()> {
        let mut problems = Problems::default();
        self.merged::<T>(&mut problems);
        problems.finish()
    }

    /// The defaults with the written keys over them, each of which is checked by itself.
    fn merged<T: DeserializeOwned>(&self, problems: &mut Problems) -> Value {
        let mut merged = self.defaults.clone();
        for (path, value) in self.entries(problems) {
            let mut probe = self.defaults.clone();
            put(&mut probe, &path, value.clone());
            match typed::read::<T>(&probe) {
                Ok(_) => put(&mut merged, &path, value),
                Err(error) => {
                    let mut problem = self.wrong_value(&path, &value, &error);
                    put(&mut probe, &path, typed::unquoted(&value));
                    if typed::read::<T>(&probe).is_ok() {
                        problem.push_str("; remove the quotes");
                    }
                    problems.add(problem);
                }
            }
        }
        merged
    }

    /// Checks every key separately, then all of them together as types.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T> {
        let mut problems = Problems::default();
        let merged = self.merged::<T>(&mut problems);
        for (section, key, remedy) in REQUIRED {
            let value = self.written.get(section).and_then(|section| section.get(key));
            problems.require(value.is_some_and(|value| !is_empty(value)), || {
                format!("{}: {section}.{key} is missing; {remedy}", self.origin)
            });
        }
        problems.finish()?;
        typed::read(&merged).map_err(|error| Error::Config(format!("{}: {error}", self.origin)))
    }

    /// The written values of known keys; complains of the unknown ones.
    fn entries(&self, problems: &mut Problems) -> Vec<(Vec<String>, Value)> {
        let mut entries = Vec::new();
        for (name, value) in self.written.as_mapping().into_iter().flatten() {
            let name = text_of(name);
            match (self.defaults.get(&name), value) {
                (None, _) => problems.unknown_key(name.clone(), self.unknown(None, &name)),
                (Some(Value::Mapping(_)), Value::Null) => {}
                (Some(section @ Value::Mapping(_)), Value::Mapping(written)) => {
                    for (key, value) in written {
                        let key = text_of(key);
                        if section.get(&key).is_none() {
                            let message = self.unknown(Some(&name), &key);
                            problems.unknown_key(format!("{name}.{key}"), message);
                        } else if !self.is_required(&name, &key) || !is_empty(value) {
                            entries.push((vec![name.clone(), key], value.clone()));
                        }
                    }
                }
                (Some(section @ Value::Mapping(_)), other) => problems.add(format!(
                    "{}: {name} is {}; it is a section with keys of its own: {}",
                    self.place(None, &name),
                    show(other),
                    keys(section).join(", ")
                )),
                (Some(_), value) => entries.push((vec![name], value.clone())),
            }
        }
        entries
    }

    fn is_required(&self, section: &str, key: &str) -> bool {
        REQUIRED.iter().any(|(s, k, _)| *s == section && *k == key)
    }

    /// `; did you mean ...?`: a key of this very name in another section, else the nearest of `neighbours`, else the
    /// nearest of all.
    fn suggest(&self, path: &str, neighbours: &[String]) -> String {
        let all = self.paths();
        let bare = path.rsplit('.').next().unwrap_or(path);
        if bare == "rpo_alpha" {
            // TRL 1.16 has no such key any longer, and takes the same from a list of losses.
            return "; write loss_type: [sigmoid, sft] with loss_weights: [1, rpo_alpha]".into();
        }
        let alias = ALIASES.iter().find(|(name, _)| *name == bare).map(|(_, key)| *key);
        if let Some(known) = alias.filter(|key| all.iter().any(|known| known == key)) {
            return format!("; did you mean {known}?");
        }
        all.iter()
            .map(String::as_str)
            .find(|known| known.rsplit('.').next() == Some(bare))
            .or_else(|| nearest(bare, neighbours.iter().map(String::as_str)))
            .or_else(|| nearest(path, all.iter().map(String::as_str)))
            .map_or(String::new(), |near| format!("; did you mean {near}?"))
    }

    /// Every known key by its full path.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for name in keys(self.defaults) {
            match self.defaults.get(&name) {
                Some(section @ Value::Mapping(_)) => {
                    paths.extend(keys(section).into_iter().map(|key| format!("{name}.{key}")));
                }
                _ => paths.push(name),
            }
        }
        paths
    }

    fn unknown(&self, section: Option<&str>, key: &str) -> String {
        let place = self.place(section, key);
        let (path, holder) = match section {
            Some(section) => {
                (format!("{section}.{key}"), self.defaults.get(section).unwrap_or(self.defaults))
            }
            None => (key.to_string(), self.defaults),
        };
        let mut known = keys(holder);
        if section.is_none() {
            known.push(STAGES.into());
        }
        if section.is_none() && key == STAGES {
            return format!("{place}: {STAGES} describes several runs, and a single run is asked for here");
        }
        if key == "<<" {
            return format!(
                "{place}: {path} is a merge key of YAML, which is not read; write the keys that it stands for"
            );
        }
        if let Some(nested) = self.nested_instead(section, key) {
            return format!("{place}: {path} is not read as one key; {nested}");
        }
        let hint = self.suggest(&path, &known);
        let list = known.join(", ");
        match section {
            Some(section) => format!("{place}: {path} is not a key{hint}; keys of {section}: {list}"),
            None => format!("{place}: {path} is not a key{hint}; top-level keys: {list}"),
        }
    }

    /// How to write a key with dots that is a path of known keys.
    fn nested_instead(&self, section: Option<&str>, key: &str) -> Option<String> {
        let path = section.map_or_else(|| key.to_string(), |section| format!("{section}.{key}"));
        let parts = self.resolve(&path).ok().filter(|_| key.contains('.'))?;
        let (last, outer) = parts[usize::from(section.is_some())..].split_last()?;
        let outer: Vec<String> = outer.iter().rev().map(|key| format!(" under {key}:")).collect();
        Some(format!("write {last}{}", outer.concat()))
    }

    fn wrong_value(&self, path: &[String], value: &Value, error: &Mismatch) -> String {
        let (section, key) = match path {
            [section, key, ..] => (Some(section.as_str()), key.as_str()),
            [key] => (None, key.as_str()),
            [] => (None, ""),
        };
        let place = self.place(section, key);
        let name = path.join(".");
        if value.is_null() {
            let default = path.iter().try_fold(self.defaults, |value, key| value.get(key));
            let default = default.map_or(String::new(), |default| format!(", {}", show(default)));
            return format!("{place}: {name} is null; remove the line for the default{default}");
        }
        let text = if typed::bare(value).is_some() { "the text " } else { "" };
        let quoted = |text: &str| must_be_quoted(text) || typed::bare(&text.into()).is_some();
        format!("{place}: {name} is {text}{}; {error}", shown(value, &quoted))
    }

    /// `file:line` of a key where the text shows one, else `file`.
    fn place(&self, section: Option<&str>, key: &str) -> String {
        match line_of(self.text, section, key) {
            Some(line) => format!("{}:{line}", self.origin),
            None => self.origin.to_string(),
        }
    }
}

/// What is wrong with a text that the parser refuses.
fn invalid(text: &str, origin: &str, error: &serde_yaml::Error) -> String {
    let line = error.location().map_or(1, |location| location.line());
    let error = error.to_string();
    if let Some((key, [first, line])) = repeated(text, &error) {
        return format!(
            "{origin}:{line}: the key {key} stands twice, first in line {first}; keep one of them, with all that belongs to it"
        );
    }
    match (out_of_range(&error), error.split_once(": invalid type")) {
        (Some(number), Some((key, _))) => format!("{origin}:{line}: {key} is {number}"),
        _ => format!("{origin} is not valid YAML: {error}"),
    }
}

/// The whole number that `error`, of the parser, finds out of range, and the remedy.
fn out_of_range(error: &str) -> Option<String> {
    let (_, found) = error.split_once("integer `")?;
    let (number, rest) = found.split_once("` as ")?;
    let is_wide = rest.starts_with("u128") || rest.starts_with("i128");
    let remedy = match number.starts_with('-') {
        true => format!("which is too small; the smallest whole number is {}", i64::MIN),
        false => format!("which is too large; the largest whole number is {}", u64::MAX),
    };
    is_wide.then(|| format!("{number}, {remedy}"))
}

/// Sets `value` at `path`, creating mappings where there is nothing. A value in the way that is not a mapping is kept
/// and reported later.
fn put(target: &mut Value, path: &[String], value: Value) {
    let Some((key, rest)) = path.split_first() else {
        *target = value;
        return;
    };
    if target.is_null() {
        *target = Value::Mapping(Mapping::new());
    }
    if let Value::Mapping(mapping) = target {
        put(mapping.entry(Value::from(key.as_str())).or_insert(Value::Null), rest, value);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Sequence(items) => items.is_empty(),
        _ => false,
    }
}

/// The keys of a mapping, sorted: a reader looks one up.
fn keys(mapping: &Value) -> Vec<String> {
    let mut keys: Vec<String> =
        mapping.as_mapping().into_iter().flatten().map(|(key, _)| text_of(key)).collect();
    keys.sort_unstable();
    keys
}

fn text_of(key: &Value) -> String {
    key.as_str().map_or_else(|| show(key), str::to_string)
}

/// A value on one line.
pub(super) fn show(value: &Value) -> String {
    shown(value, &must_be_quoted)
}

fn must_be_quoted(text: &str) -> bool {
    text.is_empty() || text.contains('\n')
}

/// A value on one line, with quotes around the texts that are `quoted`.
fn shown(value: &Value, quoted: &dyn Fn(&str) -> bool) -> String {
    let show = |value: &Value| shown(value, quoted);
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if quoted(text) => format!("{text:?}"),
        Value::String(text) => text.clone(),
        Value::Sequence(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Mapping(mapping) => {
            let entries: Vec<String> =
                mapping.iter().map(|(key, value)| format!("{}: {}", show(key), show(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Tagged(tagged) => format!("{} {}", tagged.tag, show(&tagged.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_show_on_one_line() {
        let value: Value = serde_yaml::from_str("{a: [1, x, null], b: \"p\\nq\"}").unwrap();
        assert_eq!(show(&value), "{a: [1, x, null], b: \"p\\nq\"}");
    }

    /// What is wrong with a document that may hold `x.n`, a number, and `x.list`, numbers.
    fn problem(text: &str) -> String {
        #[derive(serde::Deserialize)]
        #[expect(dead_code, reason = "only whether it can be read")]
        struct Section {
            n: f64,
            list: Vec<u64>,
            on: bool,
        }
        #[derive(serde::Deserialize)]
        #[expect(dead_code, reason = "only whether it can be read")]
        struct All {
            x: Section,
        }
        let defaults: Value = serde_yaml::from_str("x: {n: 1, list: [], on: true}").unwrap();
        let document = Document::new(text, "t.yaml", &defaults);
        document.and_then(|document| document.check::<All>()).unwrap_err().to_string()
    }

    #[test]
    fn quotes_that_make_a_text_are_shown() {
        assert_eq!(
            problem("x:\n  n: \"1e-5\"\n"),
            "t.yaml:2: x.n is the text \"1e-5\"; expected a number; remove the quotes"
        );
        let switch = problem("x:\n  on: 'false'\n");
        assert!(
            switch.contains("is the text \"false\"; expected true or false; remove the quotes"),
            "{switch}"
        );
        let list = problem("x:\n  list: [\"3\", 4]\n");
        assert!(list.contains("x.list is [\"3\", 4]; ") && list.ends_with("; remove the quotes"), "{list}");
        assert_eq!(problem("x:\n  n: fast\n"), "t.yaml:2: x.n is fast; expected a number");
        assert_eq!(problem("x:\n  n: \"true\"\n"), "t.yaml:2: x.n is the text \"true\"; expected a number");
    }

    #[test]
    fn what_yaml_has_beyond_values_is_refused_with_its_line() {
        assert_eq!(
            problem("x:\n  n: !foo 3\n"),
            "t.yaml:2: x.n is !foo 3; the tag !foo is not read; remove it"
        );
        assert!(problem("x:\n  list: [1, !foo 3]\n").contains("the tag !foo is not read"));
        assert_eq!(
            problem("a: &a {n: 3}\nx:\n  <<: *a\n").lines().nth(1).unwrap(),
            "t.yaml:3: x.<< is a merge key of YAML, which is not read; write the keys that it stands for"
        );
        assert_eq!(problem("x.n: 3\n"), "t.yaml:1: x.n is not read as one key; write n under x:");
        assert!(problem("x.m: 3\n").contains("x.m is not a key"));
    }

    #[test]
    fn numbers_that_are_too_large_are_told_with_key_and_line() {
        assert_eq!(
            problem("x:\n  n: 18446744073709551616\n"),
            "t.yaml:2: x.n is 18446744073709551616, which is too large; the largest whole number is 18446744073709551615"
        );
        let small = problem("x:\n  list: [-9223372036854775809]\n");
        assert!(small.contains("is -9223372036854775809, which is too small"), "{small}");
    }

    #[test]
    fn a_key_that_stands_twice_has_its_lines() {
        let error = problem("x:\n  n: 1\n# y\nx:\n  n: 2\n");
        assert!(error.starts_with("t.yaml:4: the key x stands twice, first in line 1;"), "{error}");
        let flow = problem("{x: {n: 1}, x: {n: 2}}");
        assert!(flow.contains("not valid YAML: duplicate entry with key \"x\""), "{flow}");
    }
}
