//! Call arguments and their binding to the names of a signature.

use super::ast::Name;
use super::problem::{Res, fail};
use super::text::display;
use super::value::Value;

/// The arguments as given in the call.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    pub positional: Vec<Value>,
    pub named: Vec<(Name, Value)>,
}

/// The bound arguments, in the order of the signature.
pub(super) struct Bound {
    what: &'static str,
    names: &'static [&'static str],
    values: Vec<Option<Value>>,
}

impl Given {
    /// Binds the arguments to `names`; `what` names the callee in error messages.
    ///
    /// # Errors
    /// Fails if there are too many arguments, or one is unknown or given twice.
    pub fn bind(self, what: &'static str, names: &'static [&'static str]) -> Res<Bound> {
        if self.positional.len() > names.len() {
            return fail(format!(
                "{what} takes at most {} argument(s), {} given",
                names.len(),
                self.positional.len()
            ));
        }
        let mut values: Vec<Option<Value>> = self.positional.into_iter().map(Some).collect();
        values.resize(names.len(), None);
        for (name, value) in self.named {
            match names.iter().position(|own| *own == &*name) {
                Some(place) if values[place].is_none() => values[place] = Some(value),
                Some(_) => return fail(format!("{what} got two values for {name}")),
                None => return fail(format!("{what} has no argument {name}")),
            }
        }
        Ok(Bound { what, names, values })
    }

    /// Rejects any arguments.
    pub fn none(self, what: &'static str) -> Res<()> {
        self.bind(what, &[]).map(|_| ())
    }
}

impl Bound {
    /// Returns the value of `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let place = self.names.iter().position(|own| *own == name)?;
        self.values[place].as_ref()
    }

    /// Returns the value of `name`, unless it is `none`.
    pub fn given(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| !matches!(value, Value::None))
    }

    pub fn required(&self, name: &str) -> Res<&Value> {
        self.get(name).map_or_else(|| fail(format!("{} needs the argument {name}", self.what)), Ok)
    }

    pub fn int(&self, name: &str, default: i128) -> Res<i128> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_int().map_or_else(|| self.wrong(name, value), Ok),
        }
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(Value::truth)
    }

    /// Returns a string argument; `None` if it is missing or `none`.
    pub fn text(&self, name: &str) -> Res<Option<&str>> {
        match self.given(name) {
            None => Ok(None),
            Some(value) => value.as_str().map_or_else(|| self.wrong(name, value), |text| Ok(Some(text))),
        }
    }

    /// Returns `str` of a required argument.
    pub fn shown(&self, name: &str) -> Res<String> {
        display(self.required(name)?)
    }

    pub fn wrong<T>(&self, name: &str, value: &Value) -> Res<T> {
        fail(format!("{}: {name} must not be a {}", self.what, value.type_name()))
    }
}
