//! Numbers for which JSON has no value.

use serde_json::{Map, Value as Json};

/// Their words, as Python's `json` writes them.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The object that stands for `word` at `place`.
pub(super) fn not_json(word: &str, place: &str) -> Json {
    Json::Object(Map::from_iter([(word.to_owned(), Json::String(place.to_owned()))]))
}

/// Returns the word and the place of the number that `value` stands for, if it stands for one.
pub(in crate::data) fn stands_for(value: &Json) -> Option<(&str, &str)> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let (word, place) = fields.iter().next()?;
    WORDS.contains(&word.as_str()).then_some((word.as_str(), place.as_str()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_that_stand_for_numbers_are_told_from_others() {
        assert_eq!(stands_for(&not_json("-Infinity", "a[1]")), Some(("-Infinity", "a[1]")));
        for other in
            [json!({"NaN": 3}), json!({"NaN": "a", "b": 1}), json!({"nan": "a"}), json!({}), json!("NaN")]
        {
            assert_eq!(stands_for(&other), None, "{other}");
        }
    }
}
