//! Key-by-key reading of `config.json`: missing keys take the defaults of transformers' class, every key read is
//! recorded, and every error names the file and the key.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::class::Class;
use crate::error::{Error, Result};

/// A model's `config.json`, or a part of it.
#[derive(Clone, Debug)]
pub struct ConfigJson {
    pub(super) values: Map<String, Value>,
    /// The class whose defaults apply to missing keys.
    pub(super) class: Option<&'static Class>,
    origin: String,
    /// The path of this part in the file: empty, or `text_config.`.
    pub(super) path: String,
    /// Shared by all parts of a file.
    pub(super) seen: Rc<RefCell<Seen>>,
    /// Whether anything not understood becomes a note instead of an error.
    pub(super) force: bool,
}

/// What has been read from a file so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Paths of the keys that were read.
    pub read: BTreeSet<String>,
    /// Paths of the objects whose keys are read one by one.
    pub opened: BTreeSet<String>,
    /// Paths of the objects that were checked to have all keys read, with the defaults of their own class.
    pub checked: BTreeSet<String>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Limits for sizes that determine how many parts a specification has, an order of magnitude above the largest models.
/// A damaged or hostile `config.json` must not cause the memory that it claims to be allocated.
const MOST: &[(&str, usize)] = &[
    ("num_hidden_layers", 1024),
    ("n_layer", 1024),
    ("hidden_size", 1 << 20),
    ("n_embd", 1 << 20),
    ("head_dim", 1 << 20),
];

impl ConfigJson {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// If it is missing or not a JSON object.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses the text of a `config.json` that came from `origin`.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(Value::Object(values)) => Ok(Self {
                values,
                class: None,
                origin: origin.to_string(),
                path: String::new(),
                seen: Rc::default(),
                force: false,
            }),
            Ok(_) => Err(Error::Model(format!("{origin} is not a JSON object"))),
            Err(e) => Err(Error::Model(format!("{origin}: {}", no_json(text, &e)))),
        }
    }

    /// Sets `force`: if true, anything not understood becomes a note instead of an error.
    pub fn forced(self, force: bool) -> Self {
        Self { force, ..self }
    }

    /// Sets the class whose defaults apply.
    pub(super) fn with_class(self, class: &'static Class) -> Self {
        Self { class: Some(class), ..self }
    }

    /// Notes for the user on how the file was understood.
    pub fn notes(&self) -> Vec<String> {
        self.seen.borrow().notes.clone()
    }

    /// Adds to [`ConfigJson::notes`].
    pub(super) fn note(&self, key: &str, text: &str) {
        self.seen.borrow_mut().notes.push(format!("{}: {}{key}: {text}", self.origin, self.path));
    }

    /// Refuses what `key` asks for; with `force`, adds a note instead.
    pub(super) fn refuse(&self, key: &str, message: &str) -> Result<()> {
        if self.force {
            self.note(key, message);
            return Ok(());
        }
        Err(self.error(key, message))
    }

    /// Checks the sizes listed in [`MOST`] against their limits.
    ///
    /// # Errors
    /// If a size exceeds its limit.
    pub(super) fn check_sizes(&self) -> Result<()> {
        for (key, most) in MOST {
            let given = self.values.get(*key).and_then(Value::as_u64);
            if let Some(size) = given.filter(|size| *size > *most as u64) {
                let why = format!("is {size}, more than any model has ({most}); is the file damaged?");
                return Err(self.error(key, &why));
            }
        }
        Ok(())
    }

    /// Creates an error about a key.
    pub fn error(&self, key: &str, message: &str) -> Error {
        Error::Model(format!("{}: {}{key}: {message}", self.origin, self.path))
    }

    /// Records that a key was read.
    pub(super) fn mark(&self, key: &str) {
        self.seen.borrow_mut().read.insert(format!("{}{key}", self.path));
    }

    /// Accepts keys that transformers does not read, but that occur in files of the family, if their value agrees with
    /// what is computed anyway. With another value they remain unread and are refused.
    pub(super) fn accept(&self, said: &[(&str, Value)]) {
        for (key, value) in said {
            if self.values.get(*key) == Some(value) {
                self.mark(key);
            }
        }
    }

    /// Returns the file's value for a key or its alternative name, including null.
    fn stored(&self, key: &str) -> Option<&Value> {
        self.mark(key);
        let other = || {
            self.class?.other_names(key).find_map(|other| {
                let value = self.values.get(other)?;
                self.mark(other);
                Some(value)
            })
        };
        self.values.get(key).or_else(other)
    }

    /// Returns the file's value for a key unless it is null, without the class's default.
    pub(super) fn given(&self, key: &str) -> Option<&Value> {
        self.stored(key).filter(|value| !value.is_null())
    }

    /// Returns the value of a key: the file's, or the class's default if the file has none. Null counts as no value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self.stored(key) {
            Some(value) => Some(value).filter(|value| !value.is_null()),
            None => self.class.and_then(|class| class.default(key)),
        }
    }

    /// Returns a part of the configuration as its own configuration.
    pub fn part(&self, key: &str) -> Option<Self> {
        let values = self.given(key)?.as_object()?.clone();
        let path = format!("{}{key}.", self.path);
        self.seen.borrow_mut().opened.insert(path.clone());
        Some(Self { values, class: None, path, ..self.clone() })
    }

    fn read<T>(&self, key: &str, kind: &str, convert: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key)
            .map(|value| {
                convert(value).ok_or_else(|| self.error(key, &format!("is {value}, expected {kind}")))
            })
            .transpose()
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let null = self.values.get(key).is_some_and(Value::is_null);
            self.error(key, if null { "is null, but the model needs it" } else { "is missing" })
        })
    }

    /// Reads a size: an integer from 1 to 2³¹.
    ///
    /// # Errors
    /// If it is missing or has another type or range.
    pub fn size(&self, key: &str) -> Result<usize> {
        let size = self.size_or_none(key)?;
        self.required(key, size)
    }

    /// Reads an optional size.
    ///
    /// # Errors
    /// If it has another type or range.
    pub fn size_or_none(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number from 1 to 2147483648", |v| {
            v.as_u64().filter(|n| (1..=1 << 31).contains(n)).and_then(|n| usize::try_from(n).ok())
        })
    }

    /// Reads a number.
    ///
    /// # Errors
    /// If it is missing or not a number.
    pub fn number(&self, key: &str) -> Result<f64> {
        let number = self.number_or_none(key)?;
        self.required(key, number)
    }

    /// Reads an optional number.
    ///
    /// # Errors
    /// If it is not a number.
    pub fn number_or_none(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// Reads what a norm adds to a variance or mean square: a number of 0 or more.
    ///
    /// # Errors
    /// If it is missing, not a number or below 0.
    pub fn epsilon(&self, key: &str) -> Result<f64> {
        let eps = self.number(key)?;
        if eps >= 0.0 {
            return Ok(eps);
        }
        Err(self.error(key, &format!("is {eps}, expected a number of 0 or more, such as 1e-5")))
    }

    /// Reads a flag; false if neither the file nor its class gives a value.
    ///
    /// # Errors
    /// If it is not a flag.
    pub fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// Reads a string.
    ///
    /// # Errors
    /// If it is missing or not a string.
    pub fn string(&self, key: &str) -> Result<String> {
        let string = self.string_or_none(key)?;
        self.required(key, string)
    }

    /// Reads an optional string.
    ///
    /// # Errors
    /// If it is not a string.
    pub fn string_or_none(&self, key: &str) -> Result<Option<String>> {
        self.read(key, "a string", |v| v.as_str().map(str::to_string))
    }

    /// Reads an optional list of numbers.
    ///
    /// # Errors
    /// If it is not a list of numbers.
    pub fn numbers_or_none(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.read(key, "a list of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// Reads an optional list of strings.
    ///
    /// # Errors
    /// If it is not a list of strings.
    pub fn strings_or_none(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.read(key, "a list of strings", |v| {
            v.as_array()?.iter().map(|s| s.as_str().map(String::from)).collect()
        })
    }
}

/// What is wrong with a text that is not JSON.
fn no_json(text: &str, error: &serde_json::Error) -> String {
    if text.starts_with('\u{feff}') {
        return "begins with a byte-order mark, which is not JSON; save it as UTF-8 without one".into();
    }
    match no_number(text).filter(|found| found.line == error.line()) {
        Some(NoNumber { key, value, .. }) => format!(
            "{key}: is {value}, which is not JSON (only Python reads it); write a number, or remove the key"
        ),
        None => error.to_string(),
    }
}

/// A value that Python writes for a number that is not finite.
#[derive(Debug, PartialEq)]
struct NoNumber<'a> {
    /// The last key before it.
    key: &'a str,
    value: &'a str,
    /// Counted from 1.
    line: usize,
}

/// Returns the first NaN or Infinity outside strings, if nothing else stands there.
fn no_number(text: &str) -> Option<NoNumber<'_>> {
    let (mut key, mut start) = ("", 0);
    loop {
        let at = start + text[start..].find(['"', 'N', 'I'])?;
        if !text[at..].starts_with('"') {
            let word = ["NaN", "Infinity"].into_iter().find(|word| text[at..].starts_with(word))?;
            let from = if text[..at].ends_with('-') { at - 1 } else { at };
            let line = text[..at].matches('\n').count() + 1;
            return Some(NoNumber { key, value: &text[from..at + word.len()], line });
        }
        let mut escaped = false;
        let end = text[at + 1..].find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        let string = &text[at + 1..at + 1 + end];
        start = at + end + 2;
        if text[start..].trim_start().starts_with(':') {
            key = string;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        ConfigJson::parse(text, "config.json").unwrap_err().to_string()
    }

    #[test]
    fn values_that_only_python_writes_are_told_with_their_key() {
        for (text, part) in [
            ("{\"a\": \"NaN \\\" : x\",\n \"limit\": Infinity}", "config.json: limit: is Infinity"),
            ("{\"rope\": {\"factor\": -Infinity}}", "config.json: factor: is -Infinity"),
            ("{\"long_factor\": [1.0, NaN]}", "config.json: long_factor: is NaN"),
            ("\u{feff}{}", "config.json: begins with a byte-order mark"),
            // The first problem is another one.
            ("{\"a\" 1,\n\"b\": NaN}", "expected `:` at line 1"),
            ("{\"a\": Nan}", "expected value at line 1"),
        ] {
            assert!(complaint(text).contains(part), "{text}: {}", complaint(text));
        }
    }

    #[test]
    fn an_epsilon_below_0_is_refused_with_its_key() {
        let config = ConfigJson::parse(r#"{"rms_norm_eps": -1.0, "b": 0.0}"#, "config.json").unwrap();
        let error = config.epsilon("rms_norm_eps").unwrap_err().to_string();
        assert!(error.contains("rms_norm_eps: is -1, expected a number of 0 or more"), "{error}");
        assert_eq!(config.epsilon("b").unwrap(), 0.0);
    }
}
