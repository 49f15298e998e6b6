//! Conversion of JSON to values, and their length, truth and iteration.

use std::rc::Rc;

use serde_json::Value as Json;

use super::problem::{Res, fail, room, spend};
use super::value::{Dict, Value, View};

impl Value {
    /// Converts JSON like Python's `json.loads`.
    pub fn from_json(json: &Json) -> Res<Self> {
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value.into()),
                (_, Some(value)) => Self::Int(value.into()),
                _ => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text.as_str()),
            Json::Array(items) => Self::list(items.iter().map(Self::from_json).collect::<Res<_>>()?)?,
            Json::Object(map) => {
                let entry =
                    |(key, value): (&String, &Json)| Ok((Self::text(key.as_str()), Self::from_json(value)?));
                let entries = map.iter().map(entry).collect::<Res<Vec<_>>>()?;
                let depth = entries.iter().map(|(_, value)| value.depth()).max().unwrap_or(0);
                let index = (entries.len() > 12)
                    .then(|| {
                        entries
                            .iter()
                            .enumerate()
                            .map(|(at, (key, _))| Ok((key.key()?, at)))
                            .collect::<Res<_>>()
                    })
                    .transpose()?;
                Self::Dict(Rc::new(Dict::with(entries, index, depth)?))
            }
        })
    }

    /// Python's `bool(value)`.
    pub fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Loop(state) => !state.items.is_empty(),
            other => other.length().is_none_or(|length| length > 0),
        }
    }

    /// Python's `len(value)`.
    pub fn length(&self) -> Option<usize> {
        match self {
            Self::Undefined(_) => Some(0),
            Self::Str(text) | Self::Markup(text) => Some(text.inner.chars().count()),
            Self::List(items) | Self::Tuple(items) | Self::Group(items) => Some(items.len()),
            Self::Dict(dict) | Self::View(_, dict) => Some(dict.entries().len()),
            Self::Range(range) => Some(range.length),
            Self::Loop(state) => Some(state.items.len()),
            _ => None,
        }
    }

    /// Returns the items of any iterable; a generator is empty afterwards.
    pub fn items(&self) -> Res<Vec<Self>> {
        let count = match self {
            Self::Str(text) | Self::Markup(text) => text.inner.len(),
            other => other.length().unwrap_or(0),
        };
        spend(count)?;
        room(count * size_of::<Self>())?;
        Ok(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Str(text) => text.inner.chars().map(|ch| Self::text(ch.to_string())).collect(),
            Self::Markup(text) => text.inner.chars().map(|ch| Self::markup(ch.to_string())).collect(),
            Self::List(items) | Self::Tuple(items) | Self::Group(items) => items.to_vec(),
            Self::Dict(dict) | Self::View(View::Keys, dict) => {
                dict.entries().iter().map(|(key, _)| key.clone()).collect()
            }
            Self::View(View::Values, dict) => dict.entries().iter().map(|(_, value)| value.clone()).collect(),
            Self::View(View::Items, dict) => dict
                .entries()
                .iter()
                .map(|(key, value)| Self::tuple(vec![key.clone(), value.clone()]))
                .collect::<Res<_>>()?,
            Self::Range(range) => (0..range.length).map(|index| range.at(index)).collect(),
            Self::Iter(items) => items.borrow_mut().drain(..).collect(),
            other => return fail(format!("'{}' object is not iterable", other.type_name())),
        })
    }
}
