//! Judgements of answers: the label of one answer, and columns that judge answers and that the schema does not read. The
//! latter are refused: a bad answer would be imitated, or a list taken in the wrong order, and nothing would be said.

use serde_json::Value as Json;

use super::super::example::Kind;
use super::super::fields::{Fields, described, shortened};
use super::name::Schema;

/// Words of names of columns that say how good an answer is.
const WORDS: [&str; 31] = [
    "label",
    "labels",
    "desirable",
    "undesirable",
    "rating",
    "ratings",
    "score",
    "scores",
    "feedback",
    "thumb",
    "thumbs",
    "judgement",
    "judgment",
    "verdict",
    "preference",
    "preferred",
    "reward",
    "rewards",
    "approved",
    "accepted",
    "rejected",
    "good",
    "bad",
    "correct",
    "vote",
    "votes",
    "upvotes",
    "downvotes",
    "helpful",
    "liked",
    "kto",
];
/// Words of names of columns that say which answer is the best.
const BEST: [&str; 11] = [
    "best",
    "chosen",
    "winner",
    "preferred",
    "preference",
    "label",
    "labels",
    "better",
    "correct",
    "gold",
    "choice",
];

/// Texts that judge an answer.
const GRADES: [&str; 14] = [
    "good",
    "bad",
    "better",
    "worse",
    "best",
    "worst",
    "chosen",
    "rejected",
    "correct",
    "incorrect",
    "right",
    "wrong",
    "true",
    "false",
];

/// Reads whether a judged answer is desirable: a boolean, `"true"`, `"false"`, `"True"`, `"False"`, 0 or 1.
pub(super) fn judgement(name: &str, value: Option<&Json>) -> Result<bool, String> {
    let found = match value {
        Some(Json::Bool(desirable)) => Some(*desirable),
        Some(Json::String(text)) => match text.as_str() {
            "true" | "True" => Some(true),
            "false" | "False" => Some(false),
            _ => None,
        },
        Some(Json::Number(number)) => match number.as_f64() {
            Some(1.0) => Some(true),
            Some(0.0) => Some(false),
            Some(_) | None => None,
        },
        Some(Json::Null | Json::Array(_) | Json::Object(_)) | None => None,
    };
    found.ok_or_else(|| {
        format!(
            "{name} must be true (the answer is desirable) or false, found {}; write 1 or 0, leave such rows out with \
             data.filter, or leave the column out of texts to imitate (data.columns: {{{name}: null}})",
            value.map_or_else(|| "nothing".into(), described)
        )
    })
}

/// Refuses judgements that were not read. `known` are the columns of the schema; `used` are those that `data.filter`
/// reads, which the user has dealt with.
pub(super) fn refuse_unread(
    fields: &Fields,
    (schema, kind, answers): (Schema, Kind, usize),
    known: impl Fn(&str) -> bool,
    used: impl Fn(&str) -> bool,
) -> Result<(), String> {
    for (name, value) in fields.iter().filter(|(name, _)| !known(name) && !used(name)) {
        let problem = match (schema, kind) {
            (Schema::Ranked, Kind::Ranked) => of_list(fields, name, value, answers),
            (_, Kind::Text) if schema != Schema::Text => of_answer(name, value),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    Ok(())
}

/// Describes a column beside `completions` that has a judgement of each, or names the best of them.
fn of_list(fields: &Fields, name: &str, value: &Json, answers: usize) -> Option<String> {
    let is_judgement = |entry: &Json| match entry {
        Json::Number(_) | Json::Bool(_) => true,
        Json::String(text) => {
            let text = text.trim().to_ascii_lowercase();
            text.parse::<f64>().is_ok() || GRADES.contains(&text.as_str())
        }
        Json::Null | Json::Array(_) | Json::Object(_) => false,
    };
    let completions = fields.get("completions").and_then(Json::as_array);
    let shown = shortened(&value.to_string());
    match value {
        Json::Array(list) if list.len() == answers && list.iter().all(is_judgement) => Some(format!(
            "`{name}` ({shown}) has an entry for each of completions and is not read: completions would be ranked as they \
             stand; rename it to scores (the highest is the best) or ranks (1 is the best) (data.columns: {{scores: {name}}}), \
             or leave it out if completions are in order (data.columns: {{{name}: null}})"
        )),
        Json::Number(_) | Json::String(_) if words(name).any(|word| BEST.contains(&word.as_str())) => {
            let is_index = value.as_u64().is_some_and(|index| index <= answers as u64);
            let is_answer = completions.is_some_and(|list| list.contains(value));
            (is_index || is_answer).then(|| {
                format!(
                    "`{name}` ({shown}) says which of completions is the best and is not read: completions stand in order, \
                     from the best to the worst; put them in this order, or leave it out if they are \
                     (data.columns: {{{name}: null}})"
                )
            })
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) | Json::Object(_) => {
            None
        }
    }
}

/// Describes a judgement of the only answer.
fn of_answer(name: &str, value: &Json) -> Option<String> {
    let is_judgement = match value {
        Json::Bool(_) | Json::Number(_) => true,
        Json::String(text) => !text.trim().is_empty() && !text.trim().contains(char::is_whitespace),
        Json::Null | Json::Array(_) | Json::Object(_) => false,
    };
    (is_judgement && words(name).any(|word| WORDS.contains(&word.as_str()))).then(|| {
        format!(
            "`{name}` ({}) is not read, and the answer would be imitated whatever it says; if it is true or false, rename it \
             (data.columns: {{label: {name}}}), or choose rows by it with data.filter, or leave it out \
             (data.columns: {{{name}: null}})",
            shortened(&value.to_string())
        )
    })
}

/// Returns the words of a column's name in lower case.
pub(super) fn words(name: &str) -> impl Iterator<Item = String> {
    let mut spaced = String::with_capacity(name.len());
    let mut before = None;
    for c in name.chars() {
        // `chosenScore`
        if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
            spaced.push(' ');
        }
        spaced.push(c);
        before = Some(c);
    }
    let words: Vec<String> = spaced.split(['_', '-', '.', ' ']).map(str::to_ascii_lowercase).collect();
    words.into_iter()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_judgement_is_a_boolean_or_one_of_its_spellings() {
        for value in [json!(true), json!("true"), json!("True"), json!(1), json!(1.0)] {
            assert_eq!(judgement("label", Some(&value)), Ok(true), "{value}");
        }
        for value in [json!(false), json!("false"), json!("False"), json!(0), json!(0.0)] {
            assert_eq!(judgement("label", Some(&value)), Ok(false), "{value}");
        }
        for value in
            [json!(null), json!(2), json!(0.5), json!(-1), json!("good"), json!(""), json!("1"), json!([1])]
        {
            let error = judgement("kto_tag", Some(&value)).unwrap_err();
            assert!(error.contains("kto_tag must be true") && error.contains("{kto_tag: null}"), "{error}");
        }
    }

    #[test]
    fn words_of_a_name_are_found_in_every_spelling() {
        for name in ["chosen_score", "chosen-score", "Chosen.Score", "chosenScore", "ChosenScore"] {
            assert_eq!(words(name).collect::<Vec<_>>(), ["chosen", "score"], "{name}");
        }
    }

    #[test]
    fn judgements_of_a_list_and_of_an_answer_are_told_from_other_columns() {
        let Json::Object(fields) = json!({"prompt": "q", "completions": ["a", "b"]}) else {
            panic!("an object")
        };
        for (name, value) in [
            ("rewards", json!([1, 2])),
            ("x", json!(["1", "2.5"])),
            ("labels", json!(["bad", "Good"])),
            ("best", json!(1)),
            ("winner", json!("b")),
        ] {
            assert!(of_list(&fields, name, &value, 2).is_some(), "{name}");
        }
        for (name, value) in
            [("rewards", json!([1])), ("x", json!(["a", "b"])), ("best", json!("c")), ("id", json!(1))]
        {
            assert!(of_list(&fields, name, &value, 2).is_none(), "{name}");
        }
        for (name, value) in
            [("is_good", json!(false)), ("Rating", json!(1)), ("feedback", json!("thumbs_down"))]
        {
            assert!(of_answer(name, &value).is_some(), "{name}");
        }
        for (name, value) in
            [("feedback", json!("a longer text")), ("score", json!(null)), ("goodness", json!(1))]
        {
            assert!(of_answer(name, &value).is_none(), "{name}");
        }
    }
}
