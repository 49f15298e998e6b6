//! Reads types from YAML values with an error that says which type was expected, as data and not as a sentence.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{self, DeserializeOwned, Expected, IntoDeserializer, Unexpected, Visitor};
use serde_yaml::Value;

use crate::error::nearest;

/// Why a value is not of its type.
#[derive(Debug)]
pub(super) enum Mismatch {
    /// The value has another type, or is out of range. This was expected.
    Expected(String),
    /// Everything else, in words.
    Other(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expected(expected) => {
                let expected = match expected.as_str() {
                    "f64" => "a number",
                    "u64" | "usize" => "a whole number of 0 or more",
                    "a boolean" => "true or false",
                    "a string" | "path string" => "a string; put it in quotes if it looks like a number",
                    other => other.strip_prefix("expected ").unwrap_or(other),
                };
                write!(f, "expected {expected}")
            }
            Self::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(variant, expected.iter().copied());
        let hint = hint.map_or_else(|| ".".into(), |near| format!("; did you mean {near}?"));
        Self::Other(format!("unknown variant `{variant}`{hint} There are: {}", expected.join(", ")))
    }

    fn invalid_type(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::Expected(expected.to_string())
    }

    fn invalid_value(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::Expected(expected.to_string())
    }
}

/// A value as its type.
///
/// # Errors
/// If it is not of the type.
pub(super) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Mismatch> {
    T::deserialize(Typed(value))
}

/// What a text would be without quotes, if it would be something else: `"1e-5"` is a number then.
pub(super) fn bare(value: &Value) -> Option<Value> {
    // Not a text with a tag.
    let Value::String(text) = value else { return None };
    let text = Some(text).filter(|text| !text.trim().is_empty())?;
    serde_yaml::from_str(text).ok().filter(|value: &Value| !value.is_string())
}

/// A value without the quotes around its texts.
pub(super) fn unquoted(value: &Value) -> Value {
    match value {
        Value::Sequence(items) => Value::Sequence(items.iter().map(unquoted).collect()),
        Value::Mapping(entries) => {
            Value::Mapping(entries.iter().map(|(key, value)| (key.clone(), unquoted(value))).collect())
        }
        other => bare(other).unwrap_or_else(|| other.clone()),
    }
}

/// A value that is read.
#[derive(Clone, Copy)]
struct Typed<'a>(&'a Value);

impl<'de> IntoDeserializer<'de, Mismatch> for Typed<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for Typed<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (None, Some(number), _) => visitor.visit_i64(number),
                (None, None, number) => visitor.visit_f64(number.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Sequence(items) => visitor.visit_seq(SeqDeserializer::new(items.iter().map(Typed))),
            Value::Mapping(entries) => {
                let entries = entries.iter().map(|(key, value)| (Typed(key), Typed(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            Value::Tagged(tagged) => {
                Err(Mismatch::Other(format!("the tag {} is not read; remove it", tagged.tag)))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::String(text) => {
                let variant: StringDeserializer<Mismatch> = text.clone().into_deserializer();
                visitor.visit_enum(variant)
            }
            Value::Tagged(_) => self.deserialize_any(visitor),
            _ => Err(Mismatch::Expected("a word".into())),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
