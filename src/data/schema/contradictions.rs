//! Columns that are not read and say that the rejected answer is the better one, or that none is. Names and values are
//! brought into one form first: `chosen_score`, `scoreChosen`, `score_w`, `scores: {chosen, rejected}` and a pair of lists
//! mean the same.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::doubt::{About, Doubt};
use super::super::example::Kind;
use super::super::fields::{Fields, first, shortened};
use super::draft::Draft;
use super::judgements::words;
use super::rivals::answers;

/// Words of names of columns with a number, of which more is better, or with a boolean, of which true is.
const MORE: [&str; 15] = [
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
    "correct",
    "accepted",
    "approved",
];
/// Words of names of columns with a place, of which 1 is the best.
const RANK: [&str; 2] = ["rank", "ranks"];
/// Words of names of columns with a probability: of the preference if both add up to 1, and of the text otherwise.
const PROBABILITY: [&str; 2] = ["prob", "probability"];
/// Words of names of columns with a difference.
const DIFFERENCE: [&str; 4] = ["diff", "difference", "delta", "gap"];
/// Words for the better and the worse answer.
const SIDES: [[&str; 2]; 5] = [
    ["chosen", "rejected"],
    ["winner", "loser"],
    ["preferred", "dispreferred"],
    ["better", "worse"],
    ["w", "l"],
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

/// A column that is not read, or a field of an object in one.
struct Leaf<'a> {
    path: String,
    words: Vec<String>,
    value: &'a Json,
}

impl Leaf<'_> {
    fn is(&self, wanted: &[&str]) -> bool {
        self.words.iter().any(|word| wanted.contains(&word.as_str()))
    }
}

/// Returns the first contradiction among the columns that are not `known`. `needs` are the columns of the schema.
pub(super) fn find(
    fields: &Fields,
    needs: &[&str],
    draft: &Draft,
    known: impl Fn(&str) -> bool,
) -> Option<Doubt> {
    let leaves = leaves(fields, known);
    let losers = losers(fields, needs, draft);
    let in_order = needs.contains(&"chosen") && !leaves.iter().any(|leaf| lists_others(leaf.value));
    let of_leaf = |leaf: &Leaf| {
        less(&leaves, leaf)
            .or_else(|| list(leaf).filter(|_| in_order))
            .or_else(|| margin(leaf))
            .or_else(|| verdict(leaf, &losers))
    };
    let what = leaves.iter().find_map(of_leaf).or_else(|| of_messages(&draft.content))?;
    Some(Doubt::new(About::Preference, what))
}

fn leaves(fields: &Fields, known: impl Fn(&str) -> bool) -> Vec<Leaf<'_>> {
    let mut found = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| !known(name)) {
        found.push(Leaf { path: name.clone(), words: words(name).collect(), value });
        for (inner, value) in value.as_object().into_iter().flatten() {
            let words = words(name).chain(words(inner)).collect();
            found.push(Leaf { path: format!("{name}.{inner}"), words, value });
        }
    }
    found
}

fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        Json::Bool(value) => Some(f64::from(u8::from(*value))),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// The numbers of a value or of a list.
fn numbers(value: &Json) -> Option<Vec<f64>> {
    match value {
        Json::Array(list) if !list.is_empty() => list.iter().map(number).collect(),
        other => Some(vec![number(other)?]),
    }
}

/// A value as messages show it: `9` for `"9"` and for `9.0`.
fn shown(value: &Json) -> String {
    match (value, number(value)) {
        (Json::Number(_) | Json::String(_), Some(number)) => number.to_string(),
        _ => shortened(&value.to_string()),
    }
}

/// Whether every number of `chosen` is at most, and one below, that of `rejected`; of ranks, at least and above.
fn is_worse(chosen: &[f64], rejected: &[f64], is_rank: bool) -> bool {
    let (low, high) = if is_rank { (rejected, chosen) } else { (chosen, rejected) };
    let mut pairs = low.iter().zip(high);
    low.len() == high.len()
        && pairs.clone().all(|(low, high)| low <= high)
        && pairs.any(|(low, high)| low < high)
}

/// `chosen_score` below `rejected_score`, or a rank above the other.
fn less(leaves: &[Leaf], leaf: &Leaf) -> Option<String> {
    let is_rank = leaf.is(&RANK);
    let is_probability = leaf.is(&PROBABILITY);
    if !is_rank && !is_probability && !leaf.is(&MORE) {
        return None;
    }
    let other = SIDES.iter().find_map(|[better, worse]| {
        let at = leaf.words.iter().position(|word| word == better)?;
        let mut wanted = leaf.words.clone();
        *wanted.get_mut(at)? = (*worse).to_owned();
        leaves.iter().find(|other| other.words == wanted)
    })?;
    let (chosen, rejected) = (numbers(leaf.value)?, numbers(other.value)?);
    let adds_up =
        chosen.iter().zip(&rejected).all(|(chosen, rejected)| (chosen + rejected - 1.0).abs() < 1e-3);
    if is_probability && !adds_up || !is_worse(&chosen, &rejected, is_rank) {
        return None;
    }
    let than = if is_rank { "above" } else { "below" };
    Some(format!("{} ({}) is {than} {} ({})", leaf.path, shown(leaf.value), other.path, shown(other.value)))
}

/// `scores` of both answers in one list; `chosen_scores` are several of one answer.
fn list(leaf: &Leaf) -> Option<String> {
    let is_rank = leaf.is(&RANK);
    let of_one = SIDES.iter().any(|sides| leaf.is(sides));
    if of_one || !is_rank && !leaf.is(&MORE) || !leaf.value.is_array() {
        return None;
    }
    let [chosen, rejected]: [f64; 2] = numbers(leaf.value)?.try_into().ok()?;
    is_worse(&[chosen], &[rejected], is_rank).then(|| {
        let than = if is_rank { "above" } else { "below" };
        format!("in {} ({}) the first number is {than} the second", leaf.path, shown(leaf.value))
    })
}

/// Whether a value is a list of two that are no numbers, such as both answers in another order, of which lists of numbers
/// may be.
fn lists_others(value: &Json) -> bool {
    let Some([first, second]) = value.as_array().map(Vec::as_slice) else { return false };
    number(first).is_none() && number(second).is_none()
}

/// A negative margin, or a negative difference of scores.
fn margin(leaf: &Leaf) -> Option<String> {
    let is_margin = leaf.is(&["margin"]) || leaf.is(&DIFFERENCE) && leaf.is(&MORE);
    let margin = number(leaf.value).filter(|margin| is_margin && *margin < 0.0)?;
    Some(format!("{} is {margin}", leaf.path))
}

fn verdict(leaf: &Leaf, losers: &[String]) -> Option<String> {
    let text = leaf.value.as_str()?.trim();
    let lower = text.to_ascii_lowercase();
    let first = lower.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
    let against = lower == "rejected" || TIES.contains(&first) || losers.contains(&lower);
    // A sentence is a comment, and no verdict.
    let is_short = text.split_whitespace().count() <= 2;
    (against && is_short && leaf.is(&VERDICT)).then(|| format!("{} is {text:?}", leaf.path))
}

/// Names of the rejected answer of a schema with columns for the first and the second answer: `response_2`, `b`.
fn losers(fields: &Fields, needs: &[&str], draft: &Draft) -> Vec<String> {
    if needs.contains(&"chosen") || !matches!(draft.kind, Kind::Pair { label, .. } if label > 0.5) {
        return Vec::new();
    }
    let [chosen, rejected] = answers(&draft.content);
    let columns: Vec<(&str, &str)> = needs
        .iter()
        .filter_map(|names| first(fields, names))
        .filter_map(|(name, value)| Some((name, value.as_str()?.trim())))
        .collect();
    let place = |text: &str| columns.iter().position(|(_, other)| *other == text);
    let (Some(won), Some(lost)) = (place(&chosen), place(&rejected)) else { return Vec::new() };
    let letter = if lost < won { "a" } else { "b" };
    let named = ["model", "response", "answer", "assistant"].map(|name| format!("{name}_{letter}"));
    let column = columns.get(lost).map(|(name, _)| name.to_ascii_lowercase());
    named.into_iter().chain([letter.to_owned()]).chain(column).collect()
}

/// Scores among the fields of the last message of each answer.
fn of_messages(content: &Content) -> Option<String> {
    let Content::Chat { answers, .. } = content else { return None };
    let last = |index: usize| Some(answers.get(index)?.last()?.fields());
    let (chosen, rejected) = (last(0)?, last(1)?);
    chosen.iter().find_map(|(name, value)| {
        let leaf = Leaf { path: name.clone(), words: words(name).collect(), value };
        let is_rank = leaf.is(&RANK);
        let other = rejected.get(name).filter(|_| is_rank || leaf.is(&MORE))?;
        is_worse(&numbers(value)?, &numbers(other)?, is_rank).then(|| {
            let than = if is_rank { "above" } else { "below" };
            let (chosen, rejected) = (shown(value), shown(other));
            format!("{name} of the last message of chosen ({chosen}) is {than} that of rejected ({rejected})")
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::messages::Message;
    use super::*;

    fn found(row: Json) -> Option<String> {
        let Json::Object(fields) = row else { panic!("an object") };
        let content = Content::Text { prompt: "q".into(), answers: vec!["a".into(), "b".into()] };
        let draft = Draft::pair(None, content);
        let needs = ["chosen", "rejected"];
        find(&fields, &needs, &draft, |name| needs.contains(&name)).map(|doubt| doubt.what)
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

    #[test]
    fn names_and_values_have_several_forms() {
        for row in [
            json!({"chosenScore": 1, "rejectedScore": 9}),
            json!({"score_w": 1, "score_l": 9}),
            json!({"scores": {"chosen": 1, "rejected": 9}}),
            json!({"metadata": {"chosen_score": 1, "rejected_score": 9}}),
            json!({"chosen_scores": [1, 2], "rejected_scores": [5, 2]}),
            json!({"chosen_prob": 0.25, "rejected_prob": 0.75}),
            json!({"chosen_correct": false, "rejected_correct": true}),
            json!({"scores": [1, 5]}),
            json!({"ranks": [2, 1]}),
            json!({"score_diff": -2}),
        ] {
            assert!(found(row.clone()).is_some(), "{row}");
        }
        for row in [
            json!({"chosenScore": 9, "rejectedScore": 1}),
            json!({"scores": {"chosen": 9, "rejected": 1}}),
            json!({"chosen_scores": [1, 5], "rejected_scores": [5, 1]}),
            json!({"chosen_scores": [1], "rejected_scores": [5, 1]}),
            json!({"chosen_prob": 0.1, "rejected_prob": 0.2}),
            json!({"rating": [1, 5], "order": ["rejected", "chosen"]}),
            json!({"scores": [5, 1], "ratings": [1, 2, 3]}),
            json!({"time_difference": -2}),
        ] {
            assert_eq!(found(row.clone()), None, "{row}");
        }
    }

    #[test]
    fn a_verdict_names_a_column_and_a_message_has_a_score() {
        let needs = ["prompt|question", "response_a", "response_b", "wins_a", "wins_b"];
        let of = |winner: &str| {
            let row = json!({"prompt": "q", "response_a": "x", "response_b": "y", "winner": winner});
            let Json::Object(fields) = row else { panic!("an object") };
            let content = Content::Text { prompt: "q".into(), answers: vec!["x".into(), "y".into()] };
            find(&fields, &needs, &Draft::pair(None, content), |_| false).is_some()
        };
        assert!(of("b") && of("model_b") && of("response_b") && !of("a") && !of("response_a"));
        let turn = |score: f64| {
            let message = json!({"role": "assistant", "content": "a", "score": score});
            vec![Message::from_fields(message.as_object().unwrap().clone())]
        };
        let chat = |scores: [f64; 2]| {
            let answers = scores.map(turn).into();
            let content = Content::Chat { prompt: Vec::new(), answers, tools: None, kwargs: None };
            find(&Fields::new(), &["chosen"], &Draft::pair(None, content), |_| false)
        };
        assert!(chat([1.0, 9.0]).is_some() && chat([9.0, 1.0]).is_none());
    }
}
