//! Lists of answers with a rank or a score each. They become ranked lists, from the best to the worst. Of answers with
//! the same score the first is kept: a ranked list says which answer is better, and these are not.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::example::Kind;
use super::super::fields::{Fields, described, first, given};
use super::super::format::stands_for;
use super::super::messages::Message;
use super::answers::{behind_prompt, distinct};
use super::dialogue::user;
use super::draft::{Draft, Named, chat, column, filled, system_messages, text_column};
use super::transcripts::human;

/// Columns with a number for each of `completions`.
pub(super) const SCORES: &str = "ranks|scores|ratings";

/// An answer that has been scored: its name in messages, the answer, and its score. Higher is better.
struct Scored<T> {
    name: String,
    answer: T,
    score: f64,
}

/// Returns the answers from the best to the worst, and the first one of those with equal scores.
fn best_first<T>(mut answers: Vec<Scored<T>>) -> Result<Vec<Named<T>>, String> {
    if answers.len() < 2 {
        return Err(format!("there are {} answers; a ranked list needs two or more", answers.len()));
    }
    answers.sort_by(|left, right| right.score.total_cmp(&left.score));
    answers.dedup_by(|next, kept| next.score == kept.score);
    if answers.len() < 2 {
        let score = answers.first().map_or(0.0, |answer| answer.score.abs());
        return Err(format!(
            "all answers have the same score ({score}); a list without a difference teaches nothing, remove it (data.filter \
             can compare max(...) and min(...))"
        ));
    }
    Ok(answers.into_iter().map(|scored| (scored.name, scored.answer)).collect())
}

/// Reads the list of objects in the column `list`: the texts under `answer` and their scores.
fn objects(
    fields: &Fields,
    list: &str,
    answer: &str,
    score: impl Fn(&str, &Fields) -> Result<f64, String>,
) -> Result<Vec<Scored<String>>, String> {
    let value = column(fields, list)?;
    let Json::Array(entries) = value else {
        return Err(format!("{list} must be a list of objects, found {}", described(value)));
    };
    let read = |(i, entry): (usize, &Json)| {
        let place = format!("{list}[{i}]");
        let Json::Object(entry) = entry else {
            return Err(format!("{place} must be an object with `{answer}`, found {}", described(entry)));
        };
        let name = format!("{place}.{answer}");
        let text = match given(entry, answer) {
            Some(value) => filled(&name, value)?.to_string(),
            None => return Err(format!("{place} has no `{answer}`")),
        };
        Ok(Scored { name, answer: text, score: score(&place, entry)? })
    };
    entries.iter().enumerate().map(read).collect()
}

/// Reads the first number of `names` in the entry at `place`.
fn number(place: &str, entry: &Fields, names: &str) -> Result<f64, String> {
    let Some((name, value)) = first(entry, names) else {
        return Err(format!("{place} has no `{}`", names.replace('|', "` or `")));
    };
    finite(&format!("{place}.{name}"), value)
}

/// Reads a number, which some data sets write as a string.
fn finite(name: &str, value: &Json) -> Result<f64, String> {
    let number = match value {
        Json::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    number
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| format!("{name} must be a number, found {}", described(value)))
}

fn ranked_chat(fields: &mut Fields, question: &str, answers: Vec<Named<String>>) -> Result<Draft, String> {
    let mut prompt =
        system_messages(fields, first(fields, "system|system_prompt").map_or("system", |(name, _)| name))?;
    prompt.push(user(fields, question)?);
    distinct(&answers)?;
    let turn = |(name, text): Named<String>| (name, vec![Message::new("assistant", &text)]);
    Ok(Draft::new(Kind::Ranked, chat(prompt, answers.into_iter().map(turn).collect(), fields)?))
}

fn ranked_text(prompt: String, answers: Vec<Named<String>>) -> Result<Draft, String> {
    distinct(&answers)?;
    let answers = answers.into_iter().map(|(_, text)| text).collect();
    Ok(Draft::new(Kind::Ranked, Content::Text { prompt, answers }))
}

/// openbmb/UltraFeedback: `instruction` and `completions`, each with `overall_score` or `fine-grained_score`.
pub(super) fn ultrafeedback(fields: &mut Fields) -> Result<Draft, String> {
    let score = |place: &str, entry: &Fields| number(place, entry, "overall_score|fine-grained_score");
    let answers = best_first(objects(fields, "completions", "response", score)?)?;
    ranked_chat(fields, "instruction", answers)
}

/// Whether `completions` are objects with a response.
pub(super) fn completions_are_objects(fields: &Fields) -> bool {
    fields.get("completions").and_then(|list| list.get(0)).is_some_and(Json::is_object)
}

/// Nectar: `prompt` (a transcript) and `answers` with `rank`, of which 1 is the best.
pub(super) fn nectar(fields: &mut Fields) -> Result<Draft, String> {
    let rank = |place: &str, entry: &Fields| number(place, entry, "rank").map(|rank| -rank);
    let answers = best_first(objects(fields, "answers", "answer", rank)?)?;
    let prompt = text_column(fields, "prompt")?.to_string();
    ranked_text(prompt, answers)
}

/// stack-exchange-preferences: `question` and `answers` with `pm_score`, in the form of the DPO paper's code.
pub(super) fn stack_exchange(fields: &mut Fields) -> Result<Draft, String> {
    let score = |place: &str, entry: &Fields| number(place, entry, "pm_score");
    let mut answers = best_first(objects(fields, "answers", "text", score)?)?;
    answers.iter_mut().for_each(|(_, text)| text.insert(0, ' '));
    let prompt = human(text_column(fields, "question")?);
    ranked_text(prompt, answers)
}

/// distilabel: `instruction` (or `input`, `prompt`), `generations` and `ratings`.
pub(super) fn distilabel(fields: &mut Fields) -> Result<Draft, String> {
    let question = first(fields, "instruction|input|prompt").map_or("instruction", |(name, _)| name);
    let ratings = first(fields, "ratings|rating").map_or("ratings", |(name, _)| name);
    refuse_opposite(fields, "generations", ratings, "ratings|rating")?;
    let mut scored = Vec::new();
    for (name, answer, score) in parallel(fields, "generations", ratings)? {
        scored.push(Scored { answer: filled(&name, answer)?.to_string(), name, score });
    }
    let answers = best_first(scored)?;
    ranked_chat(fields, question, answers)
}

/// `prompt`, `completions`, and `ranks` (1 is the best), or `scores` or `ratings` (the highest is the best).
pub(super) fn scores(fields: &mut Fields) -> Result<Draft, String> {
    let Some((name, _)) = first(fields, SCORES) else {
        return Err("ranks, scores or ratings is missing or null".into());
    };
    refuse_opposite(fields, "completions", name, SCORES)?;
    let scored = parallel(fields, "completions", name)?
        .into_iter()
        .map(|(name, answer, score)| Scored { name, answer: answer.clone(), score })
        .collect();
    let answers = best_first(scored)?;
    let named: Vec<Named<&Json>> = answers.iter().map(|(name, answer)| (name.clone(), answer)).collect();
    distinct(&named)?;
    Ok(Draft::new(Kind::Ranked, behind_prompt(fields, &named)?))
}

/// Refuses a column among `names` by which two answers have the opposite order than by the column `read`. One that is no
/// list of as many numbers orders nothing.
fn refuse_opposite(fields: &Fields, answers: &str, read: &str, names: &str) -> Result<(), String> {
    let scores = |name: &str| -> Result<Vec<f64>, String> {
        Ok(parallel(fields, answers, name)?.into_iter().map(|(.., score)| score).collect())
    };
    for other in names.split('|').filter(|name| *name != read && given(fields, name).is_some()) {
        let Ok(others) = scores(other) else { continue };
        if let Some((better, worse)) = opposite(&scores(read)?, &others) {
            return Err(format!(
                "{read} and {other} contradict each other: by {read} {answers}[{better}] is better than {answers}[{worse}], by \
                 {other} it is worse (in ranks 1 is the best, in scores and ratings the highest); correct one of them, or leave \
                 it out (data.columns: {{{other}: null}})"
            ));
        }
    }
    Ok(())
}

/// Finds two answers of which `left` has the first higher and `right` the second.
fn opposite(left: &[f64], right: &[f64]) -> Option<(usize, usize)> {
    let mut order: Vec<usize> = (0..left.len()).collect();
    order.sort_by(|a, b| left[*b].total_cmp(&left[*a]));
    // Of the answers with higher numbers in `left` than the next ones, the one with the lowest in `right`.
    let mut lowest: Option<usize> = None;
    for equal in order.chunk_by(|a, b| left[*a] == left[*b]) {
        if let Some(better) = lowest
            && let Some(worse) = equal.iter().find(|worse| right[**worse] > right[better])
        {
            return Some((better, *worse));
        }
        lowest =
            lowest.into_iter().chain(equal.iter().copied()).min_by(|a, b| right[*a].total_cmp(&right[*b]));
    }
    None
}

/// Reads two lists of the same length: answers and their scores, of which higher is better: ranks become negative.
fn parallel<'a>(
    fields: &'a Fields,
    answers: &str,
    scores: &str,
) -> Result<Vec<(String, &'a Json, f64)>, String> {
    let sign = if scores == "ranks" { -1.0 } else { 1.0 };
    let list = |name: &str| {
        let value = column(fields, name)?;
        // A list with a number that JSON lacks is kept as its place.
        let no_list = || match stands_for(value) {
            Some((word, place)) if place != name => format!("{place} must be a number, found {word}"),
            _ => format!("{name} must be a list, found {}", described(value)),
        };
        value.as_array().ok_or_else(no_list)
    };
    let (texts, numbers) = (list(answers)?, list(scores)?);
    if texts.len() != numbers.len() {
        return Err(format!(
            "{answers} has {} entries and {scores} has {}; each answer needs one",
            texts.len(),
            numbers.len()
        ));
    }
    let read = |(i, (text, number)): (usize, (&'a Json, &Json))| {
        Ok((format!("{answers}[{i}]"), text, sign * finite(&format!("{scores}[{i}]"), number)?))
    };
    texts.iter().zip(numbers).enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opposite_orders_are_told_from_ties() {
        for (left, right, found) in [
            (&[3.0, 1.0, 2.0][..], &[1.0, 3.0, 2.0][..], Some((0, 2))),
            (&[3.0, 1.0, 2.0], &[9.0, 2.0, 2.0], None),
            (&[1.0, 1.0], &[1.0, 2.0], None),
            (&[0.0, -0.0, 1.0], &[5.0, 6.0, 7.0], None),
            (&[4.0, 4.0, 1.0], &[5.0, 2.0, 3.0], Some((1, 2))),
            (&[], &[], None),
        ] {
            assert_eq!(opposite(left, right), found, "{left:?} {right:?}");
        }
    }
}
