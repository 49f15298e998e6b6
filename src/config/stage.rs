//! One of the `stages` of a configuration: as it is written, and as the run that it describes.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::RunConfig;
use super::document::{line_of, show};
use crate::error::{Error, Problems, Result, nearest};
use crate::objective::ObjectiveConfig;

/// Sections that a stage may have of its own.
pub(super) const SECTIONS: [&str; 6] = ["lora", "data", "objective", "rollout", "train", "watch"];

/// Keys that are the same for all stages.
pub(super) const COMMON: [&str; 3] = ["output_dir", "seed", "model"];

/// Keys of `lora` that a stage may set although it continues an adapter, which has all the others.
pub(super) const OF_CONTINUED: [&str; 2] = ["lora_dropout", "reference"];

/// What a stage does with the adapter of the stage before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Begins {
    /// It goes on with it. A frozen copy is the reference (with `lora.reference: init`).
    #[default]
    Continue,
    /// It leaves it frozen, as a part of the reference, and trains another adapter on top.
    Stack,
}

impl fmt::Display for Begins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continue => "continue",
            Self::Stack => "stack",
        })
    }
}

/// A stage: its name and its run.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name, which is also that of its directory behind its number.
    pub name: String,
    /// How it begins; without meaning for the first stage.
    pub begins: Begins,
    /// Its run, in a directory of its own. `lora.init_from` and `model.adapter` name the adapters of earlier stages.
    pub config: RunConfig,
}

/// A stage as it is written.
pub(super) struct Written {
    pub name: String,
    pub begins: Option<Begins>,
    /// Its own sections.
    pub sections: Mapping,
    /// Its lines, at their numbers in the file.
    pub text: String,
}

impl Written {
    /// Reads number `index` of the list; `text` has its lines.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::UnknownKey`], which names every key that a stage does not have and every value that
    /// is not of its type.
    pub(super) fn read(index: usize, value: &Value, text: String, origin: &str) -> Result<Self> {
        let mut found = Self { name: String::new(), begins: None, sections: Mapping::new(), text };
        let mut problems = Problems::default();
        match value {
            Value::String(name) => found.name.clone_from(name),
            Value::Mapping(keys) => {
                for (key, value) in keys {
                    found.take(index, &show(key), value, origin, &mut problems);
                }
            }
            other => problems.add(format!(
                "{origin}: stages[{index}] is {}; expected the name of a loss, or keys: name, adapter, {}",
                show(other),
                SECTIONS.join(", ")
            )),
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let usable = !found.name.is_empty() && found.name.chars().all(plain);
        problems.require(usable || !problems.is_empty(), || {
            let found_name = if found.name.is_empty() { "missing" } else { found.name.as_str() };
            format!(
                "{origin}: the name of stages[{index}] is {found_name}; its directory needs one of letters, digits, - and _, \
                 such as name: sft"
            )
        });
        problems.finish()?;
        Ok(found)
    }

    fn take(&mut self, index: usize, key: &str, value: &Value, origin: &str, problems: &mut Problems) {
        let place = || match line_of(&self.text, None, key) {
            Some(line) => format!("{origin}:{line}: stages[{index}].{key}"),
            None => format!("{origin}: stages[{index}].{key}"),
        };
        match (key, value) {
            ("name", Value::String(name)) => self.name.clone_from(name),
            ("name", other) => {
                problems.add(format!("{} is {}; expected a word such as sft", place(), show(other)));
            }
            ("adapter", value) => match serde_yaml::from_value(value.clone()) {
                Ok(begins) => self.begins = Some(begins),
                Err(_) => {
                    problems.add(format!("{} is {}; write continue or stack", place(), show(value)));
                }
            },
            (key, Value::Mapping(_)) if SECTIONS.contains(&key) => {
                self.sections.insert(key.into(), value.clone());
            }
            (key, Value::Null) if SECTIONS.contains(&key) => {}
            (key, other) if SECTIONS.contains(&key) => {
                problems.add(format!("{} is {}; it is a section with keys of its own", place(), show(other)));
            }
            (key, _) if COMMON.contains(&key) => problems.add(format!(
                "{} is the same for all stages; move it out of stages, to the top level",
                place()
            )),
            ("<<", _) => problems.add(format!(
                "{} is a merge key of YAML, which is not read; write the keys that it stands for",
                place()
            )),
            (key, _) if key.split_once('.').is_some_and(|(section, _)| SECTIONS.contains(&section)) => {
                let (section, inner) = key.split_once('.').unwrap_or_default();
                problems.add(format!("{} is not read as one key; write {inner} under {section}:", place()));
            }
            (key, _) => {
                let known = ["name", "adapter"].into_iter().chain(SECTIONS);
                let hint = nearest(key, known.clone())
                    .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                let known: Vec<&str> = known.collect();
                let message =
                    format!("{} is not a key{hint}; keys of a stage: {}", place(), known.join(", "));
                problems.unknown_key(format!("stages[{index}].{key}"), message);
            }
        }
    }

    /// Returns the names of the losses that the stage itself asks for: by `objective.loss_type`, or by its name.
    pub(super) fn losses(&self) -> Option<Vec<String>> {
        let written = self.sections.get("objective").and_then(|section| section.get("loss_type"));
        written.map(names).or_else(|| {
            let loss = match self.name.as_str() {
                "dpo" => "sigmoid",
                // Supervised fine-tuning on the chosen answers of pairs (Rafailov et al. 2023, section 6).
                "preferred_ft" => "sft",
                name => name,
            };
            ObjectiveConfig::is_loss(loss).then(|| vec![loss.to_string()])
        })
    }
}

/// Returns the words of a name or a list of names.
pub(super) fn names(value: &Value) -> Vec<String> {
    match value {
        Value::Sequence(all) => all.iter().map(show).collect(),
        one => vec![show(one)],
    }
}

/// Returns the text of each stage, moved to the left as if it were a file of its own, at its line of the whole text. A list in
/// flow style (`[sft, dpo]`) gives empty texts.
pub(super) fn texts(text: &str, count: usize) -> Vec<String> {
    let mut texts = vec![String::new(); count];
    let (mut inside, mut dash, mut column) = (false, None, 0);
    let mut stage = None::<usize>;
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        let is_item = content.starts_with("- ") && dash.is_none_or(|dash| dash == indent);
        if indent == 0 && !content.is_empty() && !content.starts_with(['-', '#']) {
            inside = content.starts_with("stages:");
            continue;
        }
        if !inside {
            continue;
        }
        if is_item {
            dash = Some(indent);
            column = indent + (content.len() - content[1..].trim_start().len());
            let next = stage.map_or(0, |stage| stage + 1);
            stage = Some(next);
            if let Some(text) = texts.get_mut(next) {
                *text = "\n".repeat(number);
            }
        }
        if let Some(text) = stage.and_then(|stage| texts.get_mut(stage)) {
            text.push_str(line.get(column..).unwrap_or_default());
            text.push('\n');
        }
    }
    texts
}

/// The error for a stage's run, with its place.
pub(super) fn located(origin: &str, error: Error) -> Error {
    match error {
        Error::UnknownKey { keys, message } => {
            Error::UnknownKey { keys, message: format!("{origin}: {message}") }
        }
        error => Error::Config(format!("{origin}: {error}")),
    }
}

/// Whether a later stage may have this key of `lora`.
pub(super) fn written_of_lora(begins: Begins, key: &str) -> bool {
    match begins {
        Begins::Continue => OF_CONTINUED.contains(&key),
        Begins::Stack => !["init_from", "reference"].contains(&key),
    }
}

/// Why a later stage does not have this key of `lora`, and the remedy.
pub(super) fn not_of_lora(begins: Begins, key: &str) -> String {
    match begins {
        Begins::Continue => format!(
            "lora.{key} is set, and the stage continues the adapter of the stage before, which has its own; remove it, or \
             write adapter: stack to train another adapter on top"
        ),
        Begins::Stack => {
            format!("lora.{key} is set, and a stacked stage begins with a new adapter; remove it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_stage_are_those_of_the_file() {
        let text = "seed: 1\nstages:\n  # first\n  - name: sft\n    train:\n      max_steps: 3\n  -   name: dpo\n      lora:\n        r: 4\nmodel:\n  base: b\n";
        let texts = texts(text, 2);
        assert_eq!(line_of(&texts[0], None, "name"), Some(4));
        assert_eq!(line_of(&texts[0], Some("train"), "max_steps"), Some(6));
        assert_eq!(line_of(&texts[1], Some("lora"), "r"), Some(9));
        assert_eq!(line_of(&texts[1], Some("model"), "base"), None);
        assert_eq!(super::texts("stages: [sft, dpo]\n", 2), ["", ""]);
    }
}
