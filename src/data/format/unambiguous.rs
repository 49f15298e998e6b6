//! JSON values in which no object has a key twice. Of two values for one key, a reader would have to choose.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::{Entry, Map};
use serde_json::{Error, Value as Json};

use super::super::fields::shortened;

/// Parses a JSON value.
///
/// # Errors
/// Those of `serde_json`; one of [`serde_json::error::Category::Data`] for a key that stands twice.
pub(super) fn parse(text: &str) -> Result<Json, Error> {
    serde_json::from_str::<Unambiguous>(text).map(|value| value.0)
}

struct Unambiguous(Json);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values).map(Self)
    }
}

/// Builds a value as `serde_json` does.
struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(Unambiguous(value)) = values.next_element()? {
            list.push(value);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Json, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = values.next_key::<String>()? {
            match fields.entry(key) {
                Entry::Vacant(place) => {
                    let Unambiguous(value) = values.next_value()?;
                    place.insert(value);
                }
                Entry::Occupied(place) => {
                    return Err(de::Error::custom(format_args!(
                        "the key {:?} stands twice; remove one of the two",
                        shortened(place.key())
                    )));
                }
            }
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_serde_json() {
        for text in [
            r#"{"b": [1, -2, 3.5, 1e300, 18446744073709551615], "a": {"b": null, "c": [true, "x\ny", ""]}}"#,
            "[]",
            "{}",
            " \"a\" ",
            "-0",
            "-0.0",
            "123456789012345678901234567890",
        ] {
            assert_eq!(parse(text).unwrap(), serde_json::from_str::<Json>(text).unwrap(), "{text}");
        }
        for text in ["", "{", "[1,]", "{\"a\" 1}", "{a: 1}", "1 2", "1e400"] {
            let expected = serde_json::from_str::<Json>(text).unwrap_err().to_string();
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_in_every_object() {
        for (text, key) in [
            (r#"{"chosen": 1, "b": 2, "chosen": 1}"#, "chosen"),
            (r#"[{"a": {"b": 1, "b": null}}]"#, "b"),
            (r#"{"a": 1, "\u0061": 2}"#, "a"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.is_data(), "{text}");
            assert!(error.to_string().contains(&format!("the key {key:?} stands twice")), "{error}");
        }
        assert!(parse(r#"{"a": {"a": 1}, "A": [{"a": 1}, {"a": 1}]}"#).is_ok());
    }
}
