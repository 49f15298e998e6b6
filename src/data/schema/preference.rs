//! TRL's pairs, `chosen` and `rejected` with an explicit or implicit prompt, and data sets that differ from them only in
//! additional columns.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::fields::{Fields, described, first, given, key, named, shortened};
use super::super::messages::{Message, messages};
use super::draft::{Draft, blank, chat_pair, text, text_pair, turns};
use crate::error::nearest;

/// The columns with votes for `chosen` and for `rejected`.
pub(super) const VOTES: [&str; 2] = [
    "votes_chosen|chosen_votes|wins_chosen|chosen_wins",
    "votes_rejected|rejected_votes|wins_rejected|rejected_wins",
];

/// A pair with `prompt`. If the answers are whole conversations, a prompt that is a string only repeats a question of
/// theirs (UltraFeedback's form).
pub(super) fn explicit(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = fields.get("prompt").cloned();
    pair(fields, prompt.as_ref())
}

/// A pair whose prompt is the common beginning of both answers (TRL's `extract_prompt`).
pub(super) fn implicit(fields: &mut Fields) -> Result<Draft, String> {
    if let Some(prompt @ Json::Null) = fields.get("prompt") {
        return Err(unusable_prompt(prompt));
    }
    pair(fields, None)
}

/// Capybara's pairs: whole conversations beside the original one, to which `prompt` belongs.
pub(super) fn capybara(fields: &mut Fields) -> Result<Draft, String> {
    pair(fields, None)
}

fn pair(fields: &mut Fields, prompt: Option<&Json>) -> Result<Draft, String> {
    let label = label(fields)?;
    let (chosen, rejected) = (required(fields, "chosen")?, required(fields, "rejected")?);
    let content = match (chosen, rejected) {
        (Json::String(_), Json::String(_)) => {
            texts(fields, prompt, text("chosen", chosen)?, text("rejected", rejected)?)?
        }
        (Json::Array(_) | Json::Object(_), Json::Array(_) | Json::Object(_)) => {
            let (chosen, rejected) = (turns("chosen", chosen)?, turns("rejected", rejected)?);
            conversations(fields, prompt, chosen, rejected)?
        }
        (chosen, rejected) => return Err(not_a_pair(chosen, rejected)),
    };
    Ok(Draft::pair(label, content))
}

fn not_a_pair(chosen: &Json, rejected: &Json) -> String {
    for (name, value) in [("chosen", chosen), ("rejected", rejected)] {
        if !value.is_string() && !value.is_array() && !value.is_object() {
            return format!("{name} must be a string or a list of messages, found {}", described(value));
        }
    }
    format!(
        "chosen is {} but rejected is {}; both must be strings or both lists of messages",
        described(chosen),
        described(rejected)
    )
}

/// Returns the field `name`. If it is missing, the error suggests an existing field with a similar name.
pub(super) fn required<'a>(fields: &'a Fields, name: &str) -> Result<&'a Json, String> {
    let others =
        || fields.keys().map(String::as_str).filter(|name| !["prompt", "chosen", "rejected"].contains(name));
    fields.get(name).ok_or_else(|| match nearest(name, others()) {
        Some(near) => format!("missing `{name}`; found `{near}`: rename it (data.columns: {{{name}: {}}})", key(near)),
        None if fields.is_empty() => format!("missing `{name}`; the record has no fields"),
        None => format!(
            "missing `{name}`; found {}. Every pair needs `chosen` and `rejected`; one answer is `completion`, a ranked list \
             `completions`, a text of its own `messages` or `text`",
            named(fields)
        ),
    })
}

/// Reads y from `label` or from the votes for both answers.
pub(super) fn label(fields: &Fields) -> Result<Option<f32>, String> {
    let votes = VOTES.map(|names| first(fields, names));
    let Some(value) = given(fields, "label") else {
        let [Some((chosen, won)), Some((rejected, lost))] = votes else { return Ok(None) };
        return share([(chosen, won), (rejected, lost)]).map(|share| Some(share as f32));
    };
    if let [Some((chosen, _)), Some((rejected, _))] = votes {
        return Err(format!(
            "label and the votes ({chosen}, {rejected}) both say how certain the preference is; remove one of them \
             (data.columns: {{label: null}})"
        ));
    }
    let wrong = || {
        format!(
            "label must be a number from 0 (rejected is preferred) to 1 (chosen is, the default), found {}; if the column \
             means something else, leave it out (data.columns: {{label: null}})",
            described(value)
        )
    };
    // JSON has no NaN, and the range check would reject it anyway.
    let number = value.as_f64().map(|label| label as f32).filter(|label| (0.0..=1.0).contains(label));
    number.map(Some).ok_or_else(wrong)
}

/// Returns the share of the first of two numbers of votes.
pub(super) fn share(votes: [(&str, &Json); 2]) -> Result<f64, String> {
    let count = |(name, value): (&str, &Json)| {
        value
            .as_f64()
            .filter(|count| *count >= 0.0 && count.is_finite())
            .ok_or_else(|| format!("{name} must be a number of votes, 0 or more, found {}", described(value)))
    };
    let (won, lost) = (count(votes[0])?, count(votes[1])?);
    let all = won + lost;
    if !(all > 0.0 && all.is_finite()) {
        return Err(format!("{} and {} have no votes; remove the pair", votes[0].0, votes[1].0));
    }
    Ok(won / all)
}

fn texts(fields: &Fields, prompt: Option<&Json>, chosen: &str, rejected: &str) -> Result<Content, String> {
    if chosen == rejected {
        return text_pair(String::new(), named_pair(chosen, rejected));
    }
    let prompt = match prompt {
        Some(prompt @ Json::String(_)) => {
            return text_pair(text("prompt", prompt)?.into(), named_pair(chosen, rejected));
        }
        Some(other) => return Err(unusable_prompt(other)),
        None => {
            refuse_misspelt_prompt(fields)?;
            common_text(chosen, rejected)
        }
    };
    let (shared, chosen_rest, rejected_rest) = (&chosen[..prompt], &chosen[prompt..], &rejected[prompt..]);
    for (name, rest) in [("chosen", chosen_rest), ("rejected", rejected_rest)] {
        if rest.is_empty() {
            return Err(blank(name, rest));
        }
    }
    if shared.is_empty() {
        let (chosen, rejected) = (shortened(chosen), shortened(rejected));
        let what = format!("chosen ({chosen}) and rejected ({rejected}) have no beginning in common");
        return Err(without_prompt(fields, &what));
    }
    // The rest may be white space: the answers differ in it, and the common beginning has their text.
    Ok(Content::Text { prompt: shared.into(), answers: vec![chosen_rest.into(), rejected_rest.into()] })
}

fn named_pair(chosen: &str, rejected: &str) -> [(String, String); 2] {
    [("chosen".into(), chosen.into()), ("rejected".into(), rejected.into())]
}

/// Describes answers that share nothing, as `what` says, in a format whose prompt is what they share.
fn without_prompt(fields: &Fields, what: &str) -> String {
    if given(fields, "prompt").is_some() {
        return format!(
            "{what}, which this format takes for the prompt: it does not read `prompt`; set data.format to preference, which \
             does, or leave data.format out"
        );
    }
    format!("missing `prompt`, and {what} that could be it{}", found_beside(fields))
}

/// Names the columns beside the answers, among which the prompt may be.
fn found_beside(fields: &Fields) -> String {
    let others: Fields =
        fields.clone().into_iter().filter(|(name, _)| name != "chosen" && name != "rejected").collect();
    if others.is_empty() {
        return String::new();
    }
    format!(
        "; found {}: if one of them is the prompt, name it (data.columns: {{prompt: NAME}})",
        named(&others)
    )
}

fn unusable_prompt(prompt: &Json) -> String {
    let remedy = if prompt.is_null() {
        "; leave it out if chosen and rejected begin with it (data.columns: {prompt: null})"
    } else {
        ""
    };
    format!("prompt must be a string where chosen and rejected are, found {}{remedy}", described(prompt))
}

/// Rejects a misspelt `prompt` field. Without `prompt` the prompt is extracted from the answers, and a misspelt one
/// would be silently ignored.
fn refuse_misspelt_prompt(fields: &Fields) -> Result<(), String> {
    match nearest("prompt", fields.keys().map(String::as_str).filter(|name| *name != "prompt")) {
        // At most two typos: `prompt_id` is a column in its own right.
        Some(near) if strsim::damerau_levenshtein("prompt", near) <= 2 => Err(format!(
            "missing `prompt`; found `{near}`: rename it (data.columns: {{prompt: {}}})",
            key(near)
        )),
        _ => Ok(()),
    }
}

/// TRL's `extract_prompt` for strings: returns the length in bytes of the common prefix, without a space before the
/// first difference. If one text is a prefix of the other, TRL leaves the last character to the completions.
fn common_text(chosen: &str, rejected: &str) -> usize {
    let mut previous = None;
    for ((byte, left), right) in chosen.char_indices().zip(rejected.chars()) {
        if left != right {
            return match previous {
                Some((at, ' ')) => at,
                _ => byte,
            };
        }
        previous = Some((byte, left));
    }
    previous.map_or(0, |(at, _)| at)
}

fn conversations(
    fields: &mut Fields,
    prompt: Option<&Json>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
) -> Result<Content, String> {
    let named = |chosen, rejected| [("chosen".to_string(), chosen), ("rejected".to_string(), rejected)];
    if chosen == rejected {
        return chat_pair(Vec::new(), named(chosen, rejected), fields);
    }
    let question = match prompt {
        Some(Json::Array(prompt)) => {
            return chat_pair(messages("prompt", prompt)?, named(chosen, rejected), fields);
        }
        None => None,
        Some(question @ Json::String(_)) => Some(text("prompt", question)?),
        Some(other) => {
            return Err(format!(
                "prompt must be a list of messages where chosen and rejected are, found {}",
                described(other)
            ));
        }
    };
    let (shared, chosen, rejected) = split_conversations(chosen, rejected);
    match (question, shared.last()) {
        (None, None) => Err(without_prompt(fields, "chosen and rejected have no first message in common")),
        (Some(question), None) => Err(format!(
            "prompt is a string ({:?}), while chosen and rejected are lists of messages that begin differently; make prompt \
             a list of messages too",
            shortened(question)
        )),
        (Some(question), Some(last)) if !is_among(question, &shared, last) => Err(format!(
            "prompt ({:?}) is not among the messages that chosen and rejected share, the last of which is {:?}; make prompt a \
             list of messages and leave them out of chosen and rejected, or leave prompt out (data.columns: {{prompt: null}})",
            shortened(question),
            shortened(last.content())
        )),
        _ => chat_pair(shared, named(chosen, rejected), fields),
    }
}

/// Whether the string is part of a shared message, or the shared messages were written into it.
fn is_among(question: &str, shared: &[Message], last: &Message) -> bool {
    let last = last.content().trim();
    shared.iter().any(|message| message.content().contains(question.trim()))
        || !last.is_empty() && question.contains(last)
}

/// TRL's `extract_prompt` for conversations: the common leading messages. If one conversation is a prefix of the other,
/// its last message is left to the completions.
pub(super) fn split_conversations(
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
) -> (Vec<Message>, Vec<Message>, Vec<Message>) {
    let shorter = chosen.len().min(rejected.len());
    let common = chosen.iter().zip(&rejected).take_while(|(left, right)| left == right).count();
    let border = common.min(shorter.saturating_sub(1));
    let (rest_chosen, rest_rejected) = (chosen.split_off(border), rejected.split_off(border));
    (chosen, rest_chosen, rest_rejected)
}
