//! `config.json`, read key by key: a key that the file leaves out has the value that transformers' class gives it, every
//! key that is read is noted, and every error names the file and the key.

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
    /// Whose defaults hold for absent keys.
    pub(super) class: Option<&'static Class>,
    origin: String,
    /// Where in the file this part is: empty, or `text_config.`.
    pub(super) path: String,
    /// Shared by all parts of a file.
    pub(super) seen: Rc<RefCell<Seen>>,
    /// What is not understood is a note, not an error.
    pub(super) force: bool,
}

/// What was asked of a file so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Paths of the keys that were read.
    pub read: BTreeSet<String>,
    /// Paths of the objects whose own keys are read one by one.
    pub opened: BTreeSet<String>,
    /// Paths of the objects whose keys were found to be all read, with the defaults of their own class.
    pub checked: BTreeSet<String>,
    /// What the user should know.
    pub notes: Vec<String>,
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
            Ok(Value::Object(values)) => Ok(Self {
                values,
                class: None,
                origin: origin.to_string(),
                path: String::new(),
                seen: Rc::default(),
                force: false,
            }),
            Ok(_) => Err(Error::Model(format!("{origin} is not a JSON object"))),
            Err(e) => Err(Error::Model(format!("{origin}: {e}"))),
        }
    }

    /// The same; with `force`, what is not understood becomes a note instead of an error.
    pub fn forced(self, force: bool) -> Self {
        Self { force, ..self }
    }

    /// The same, with the defaults of a class.
    pub(super) fn with_class(self, class: &'static Class) -> Self {
        Self { class: Some(class), ..self }
    }

    /// What the user should know of how the file was understood.
    pub fn notes(&self) -> Vec<String> {
        self.seen.borrow().notes.clone()
    }

    /// Adds to [`ConfigJson::notes`].
    pub(super) fn note(&self, key: &str, text: &str) {
        self.seen.borrow_mut().notes.push(format!("{}: {}{key}: {text}", self.origin, self.path));
    }

    /// Refuses what `key` asks for; with `force` it is a note.
    pub(super) fn refuse(&self, key: &str, message: &str) -> Result<()> {
        if self.force {
            self.note(key, message);
            return Ok(());
        }
        Err(self.error(key, message))
    }

    /// Holds the sizes that a specification has a piece for each of against [`MOST`].
    ///
    /// # Errors
    /// If one is larger.
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

    /// An error about a key.
    pub fn error(&self, key: &str, message: &str) -> Error {
        Error::Model(format!("{}: {}{key}: {message}", self.origin, self.path))
    }

    /// Notes that a key was read.
    pub(super) fn mark(&self, key: &str) {
        self.seen.borrow_mut().read.insert(format!("{}{key}", self.path));
    }

    /// Takes keys that transformers does not read, where they say what is computed anyway: files of the family have them.
    /// With another value they are left over, and refused.
    pub(super) fn accept(&self, said: &[(&str, Value)]) {
        for (key, value) in said {
            if self.values.get(*key) == Some(value) {
                self.mark(key);
            }
        }
    }

    /// What the file says under a key or another name of it, null too.
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

    /// A value that the file holds, null or not, without its class's default.
    pub(super) fn given(&self, key: &str) -> Option<&Value> {
        self.stored(key).filter(|value| !value.is_null())
    }

    /// The value of a key: the file's, or where it has none that of its class; not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self.stored(key) {
            Some(value) => Some(value).filter(|value| !value.is_null()),
            None => self.class.and_then(|class| class.default(key)),
        }
    }

    /// A part of the configuration as a configuration of its own.
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

    /// A flag; false where neither the file nor its class says so.
    ///
    /// # Errors
    /// If it is something else.
    pub fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A string.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn string(&self, key: &str) -> Result<String> {
        let string = self.string_or_none(key)?;
        self.required(key, string)
    }

    /// A string, if there is one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn string_or_none(&self, key: &str) -> Result<Option<String>> {
        self.read(key, "a string", |v| v.as_str().map(str::to_string))
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
