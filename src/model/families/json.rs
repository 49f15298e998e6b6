//! `config.json`, read key by key; every error names the file and the key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A model's `config.json`.
#[derive(Clone, Debug)]
pub struct ConfigJson {
    values: Map<String, Value>,
    origin: String,
}

/// Most of what a specification holds a piece of for each: an order above the largest models. A damaged or hostile
/// `config.json` must not ask for the memory that it claims.
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
            Ok(Value::Object(values)) => Ok(Self { values, origin: origin.to_string() }),
            Ok(_) => Err(Error::Model(format!("{origin} is not a JSON object"))),
            Err(e) => Err(Error::Model(format!("{origin}: {e}"))),
        }
    }

    /// Holds the sizes that a specification has a piece for each of against [`MOST`].
    ///
    /// # Errors
    /// If one is larger.
    pub(super) fn check_sizes(&self) -> Result<()> {
        for (key, most) in MOST {
            if let Some(size) = self.size_or_none(key)?.filter(|size| size > most) {
                let why = format!("is {size}, more than any model has ({most}); is the file damaged?");
                return Err(self.error(key, &why));
            }
        }
        Ok(())
    }

    /// An error about a key.
    pub fn error(&self, key: &str, message: &str) -> Error {
        Error::Model(format!("{}: {key}: {message}", self.origin))
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// A part of the configuration as a configuration of its own.
    pub fn part(&self, key: &str) -> Option<Self> {
        let values = self.get(key)?.as_object()?.clone();
        Some(Self { values, origin: format!("{}: {key}", self.origin) })
    }

    fn read<T>(&self, key: &str, kind: &str, convert: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key)
            .map(|value| {
                convert(value).ok_or_else(|| self.error(key, &format!("is {value}, expected {kind}")))
            })
            .transpose()
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A size: a whole number from 1 to 2³¹.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn size(&self, key: &str) -> Result<usize> {
        let size = self.size_or_none(key)?;
        self.required(key, size)
    }

    /// A size, if there is one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn size_or_none(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number from 1 to 2147483648", |v| {
            v.as_u64().filter(|n| (1..=1 << 31).contains(n)).and_then(|n| usize::try_from(n).ok())
        })
    }

    /// A number.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn number(&self, key: &str) -> Result<f64> {
        let number = self.number_or_none(key)?;
        self.required(key, number)
    }

    /// A number, if there is one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn number_or_none(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A flag, `default` when absent.
    ///
    /// # Errors
    /// If it is something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A string.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn string(&self, key: &str) -> Result<String> {
        let string = self.read(key, "a string", |v| v.as_str().map(str::to_string))?;
        self.required(key, string)
    }

    /// A list of numbers, if there is one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn numbers_or_none(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.read(key, "a list of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// A list of strings, if there is one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn strings_or_none(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.read(key, "a list of strings", |v| {
            v.as_array()?.iter().map(|s| s.as_str().map(String::from)).collect()
        })
    }
}
