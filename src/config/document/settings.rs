//! Settings of the command line, `section.key=value`, over what a document says.

use serde_yaml::Value;

use super::super::nested::nested;
use super::{Document, keys, out_of_range, put, show};
use crate::error::{Error, Problems, Result, nearest};

impl Document<'_> {
    /// Applies `section.key=value` settings, in order.
    pub(in crate::config) fn with_overrides(mut self, overrides: &[String]) -> Result<Self> {
        let mut problems = Problems::default();
        for setting in overrides {
            problems.absorb(self.set(setting).map_err(|error| match error {
                Error::UnknownKey { keys, message } => {
                    Error::UnknownKey { keys, message: format!("--set {setting}: {message}") }
                }
                error => Error::Config(format!("--set {setting}: {error}")),
            }));
        }
        problems.finish()?;
        Ok(self)
    }

    fn set(&mut self, setting: &str) -> Result<()> {
        let (path, value) = setting
            .split_once('=')
            .ok_or_else(|| Error::Config("there is no `=`; write --set section.key=value".into()))?;
        let value: Value = serde_yaml::from_str(value).map_err(|error| {
            let error = error.to_string();
            Error::Config(match out_of_range(&error) {
                Some(number) => format!("the value is {number}"),
                None => {
                    format!(
                        "the value is not valid YAML ({error}); put a text with special characters in quotes"
                    )
                }
            })
        })?;
        let path = self.resolve(path)?;
        self.check_way(&path)?;
        put(&mut self.written, &path, value);
        Ok(())
    }

    /// Checks that a key to be set in a section within a section has no other value in its way.
    fn check_way(&self, path: &[String]) -> Result<()> {
        let [section, key, _] = path else { return Ok(()) };
        match self.written.get(section).and_then(|section| section.get(key)) {
            None | Some(Value::Null | Value::Mapping(_)) => Ok(()),
            Some(other) => Err(Error::Config(format!(
                "{section}.{key} is {}, which has no keys; set all of it: --set '{section}.{key}={{...}}'",
                show(other)
            ))),
        }
    }

    /// A dotted path as keys. Behind a key that holds a mapping (`lora.rank_pattern`) the rest is one key, dots and all; behind
    /// a section that is null unless it is set (`lora.prefix_tuning`) it is one of the section's keys.
    pub(super) fn resolve(&self, path: &str) -> Result<Vec<String>> {
        let unknown = || Error::UnknownKey {
            keys: vec![path.to_string()],
            message: format!("{path} is not a key{}", self.suggest(path, &[])),
        };
        let Some((name, rest)) = path.split_once('.') else {
            return match self.defaults.get(path) {
                Some(section @ Value::Mapping(_)) => Err(Error::Config(format!(
                    "{path} is a section; set one of its keys: {}",
                    keys(section).join(", ")
                ))),
                Some(_) => Ok(vec![path.into()]),
                None => Err(unknown()),
            };
        };
        let section = self.defaults.get(name).filter(|section| section.is_mapping()).ok_or_else(unknown)?;
        if section.get(rest).is_some() {
            return Ok(vec![name.into(), rest.into()]);
        }
        let (key, inner) = rest.split_once('.').ok_or_else(unknown)?;
        match (section.get(key), nested(name, key)) {
            (Some(Value::Mapping(_)), _) => Ok(vec![name.into(), key.into(), inner.into()]),
            (Some(_), Some(known)) => {
                let known = keys(&known);
                let is_known = known.iter().any(|known| known == inner);
                is_known
                    .then(|| vec![name.into(), key.into(), inner.into()])
                    .ok_or_else(|| unknown_within(path, (&format!("{name}.{key}"), inner), &known))
            }
            _ => Err(unknown()),
        }
    }
}

/// The error of a key that a section within a section does not have.
fn unknown_within(path: &str, (section, key): (&str, &str), known: &[String]) -> Error {
    let near = nearest(key, known.iter().map(String::as_str));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean {section}.{near}?"));
    Error::UnknownKey {
        keys: vec![path.to_string()],
        message: format!("{path} is not a key{hint}; keys of {section}: {}", known.join(", ")),
    }
}
