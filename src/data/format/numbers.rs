//! Numbers and bytes for which JSON has no value.

use serde_json::{Map, Number, Value as Json};

/// The object that stands for `word` (`NaN`, `Infinity`, `-Infinity`) at `place`.
pub(super) fn not_json(word: &str, place: &str) -> Json {
    Json::Object(Map::from_iter([(word.to_owned(), Json::String(place.to_owned()))]))
}

/// A number of the column `place`.
pub(super) fn float(number: f64, place: &str) -> Json {
    match Number::from_f64(number) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => not_json("NaN", place),
        None if number > 0.0 => not_json("Infinity", place),
        None => not_json("-Infinity", place),
    }
}

/// The object that stands for `size` bytes which are not declared to be text.
pub(super) fn binary(size: usize) -> Json {
    Json::Object(Map::from_iter([("binary".to_owned(), Json::String(format!("{size} bytes")))]))
}
