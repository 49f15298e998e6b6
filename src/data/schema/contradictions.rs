//! Columns that are not read and say that the rejected answer is the better one, or that none is.

use serde_json::Value as Json;

use super::super::doubt::{About, Doubt};
use super::super::fields::Fields;
use super::judgements::words;

/// Words of names of columns with a number, of which more is better.
const MORE: [&str; 12] = [
    "score",
    "scores",
    "rating",
    "ratings",
    "reward",
    "rewards",
    "grade",
    "quality",
    "votes",
    "upvotes",
    "helpfulness",
    "elo",
];
/// Words of names of columns with the better answer, or with what became of the comparison.
const VERDICT: [&str; 10] = [
    "winner",
    "preferred",
    "preference",
    "better",
    "best",
    "choice",
    "verdict",
    "status",
    "result",
    "judgement",
];
/// Values that name no better answer.
const TIES: [&str; 7] = ["tie", "ties", "tied", "draw", "equal", "neither", "both"];

/// Returns the first contradiction among the columns that are not `known`.
pub(super) fn find(fields: &Fields, known: impl Fn(&str) -> bool) -> Option<Doubt> {
    let what = fields.iter().filter(|(name, _)| !known(name)).find_map(|(name, value)| {
        less(fields, name, value).or_else(|| margin(name, value)).or_else(|| verdict(name, value))
    })?;
    Some(Doubt::new(About::Preference, what))
}

fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

/// `chosen_score` below `rejected_score`, or a rank above the other.
fn less(fields: &Fields, name: &str, value: &Json) -> Option<String> {
    let is = |wanted: &[&str]| words(name).any(|word| wanted.contains(&word.as_str()));
    let other = name.replace("chosen", "rejected");
    let (chosen, rejected) = (number(value)?, number(fields.get(&other)?)?);
    let rank = is(&["rank"]);
    if other == name || !rank && !is(&MORE) {
        return None;
    }
    let wrong = if rank { chosen > rejected } else { chosen < rejected };
    let than = if rank { "above" } else { "below" };
    wrong.then(|| format!("{name} ({chosen}) is {than} {other} ({rejected})"))
}

fn margin(name: &str, value: &Json) -> Option<String> {
    let margin = number(value).filter(|margin| *margin < 0.0 && words(name).any(|word| word == "margin"))?;
    Some(format!("{name} is {margin}"))
}

fn verdict(name: &str, value: &Json) -> Option<String> {
    let text = value.as_str()?.trim();
    let lower = text.to_ascii_lowercase();
    let first = lower.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
    let against = lower == "rejected" || TIES.contains(&first);
    // A sentence is a comment, and no verdict.
    let is_short = text.split_whitespace().count() <= 2;
    (against && is_short && words(name).any(|word| VERDICT.contains(&word.as_str())))
        .then(|| format!("{name} is {text:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(row: Json) -> Option<String> {
        let Json::Object(fields) = row else { panic!("an object") };
        find(&fields, |name| ["chosen", "rejected"].contains(&name)).map(|doubt| doubt.what)
    }

    #[test]
    fn contradictions_are_told_from_agreement() {
        for (row, what) in [
            (
                json!({"chosen_score": 1.0, "rejected_score": 9}),
                "chosen_score (1) is below rejected_score (9)",
            ),
            (
                json!({"score_chosen": "1", "score_rejected": "9"}),
                "score_chosen (1) is below score_rejected (9)",
            ),
            (json!({"chosen_rank": 2, "rejected_rank": 1}), "chosen_rank (2) is above rejected_rank (1)"),
            (json!({"margin": -0.5}), "margin is -0.5"),
            (json!({"winner": "rejected"}), "winner is \"rejected\""),
            (json!({"status": "tie"}), "status is \"tie\""),
        ] {
            assert_eq!(found(row.clone()).as_deref(), Some(what), "{row}");
        }
        for row in [
            json!({"chosen_score": 9, "rejected_score": 1}),
            json!({"chosen_rating": 3, "rejected_rating": 3}),
            json!({"chosen_logps": -9, "rejected_logps": -1}),
            json!({"chosen_score": 1, "rejected_length": 9}),
            json!({"winner": "chosen", "margin": 0.5, "status": "submitted"}),
            json!({"preference_reason": "both answers are good, one is better"}),
        ] {
            assert_eq!(found(row.clone()), None, "{row}");
        }
    }
}
