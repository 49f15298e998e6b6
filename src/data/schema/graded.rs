//! Two answers and a judgement between them. A graded judgement becomes a soft label: y = 0.5 + |s| / 6 for a strength s
//! from -3 to 3, so 3 is certainty and 0 is 0.5. The preferred answer comes first; of two that are equally good, the
//! first.

use serde_json::Value as Json;

use super::super::fields::{Fields, described, first, given};
use super::super::messages::{Message, messages};
use super::answers::behind_prompt;
use super::dialogue::user;
use super::draft::{Draft, chat_pair, column, filled, turns};
use super::preference::{share, split_conversations};
use super::transcripts::choice;

/// How HelpSteer2 marks the turns of a prompt with several.
const TURN: &str = "<extra_id_1>";

/// HelpSteer2-preference: `preference_strength` is negative if `response_1` is better.
pub(super) fn helpsteer2(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = column(fields, "prompt")?;
    let prompt = turns_of(filled("prompt", prompt)?)?;
    graded(fields, prompt, ["response_1", "response_2"], "preference_strength")
}

/// HelpSteer3: `context` is a list of messages; `overall_preference` is negative if `response1` is better.
pub(super) fn helpsteer3(fields: &mut Fields) -> Result<Draft, String> {
    let context = column(fields, "context")?;
    let prompt = match context {
        Json::Array(list) => messages("context", list)?,
        Json::String(_) => vec![user(fields, "context")?],
        other => return Err(format!("context must be a list of messages, found {}", described(other))),
    };
    graded(fields, prompt, ["response1", "response2"], "overall_preference")
}

fn graded(
    fields: &mut Fields,
    prompt: Vec<Message>,
    names: [&str; 2],
    strength: &str,
) -> Result<Draft, String> {
    let value = column(fields, strength)?;
    let grade = value.as_f64().filter(|grade| (-3.0..=3.0).contains(grade)).ok_or_else(|| {
        format!(
            "{strength} must be a number from -3 ({} is better) to 3, found {}",
            names[0],
            described(value)
        )
    })?;
    // A negative strength prefers the first answer.
    pair(fields, prompt, names, 0.5 - grade / 6.0)
}

/// Builds a conversation with two answers, of which the first is preferred with the certainty `first_wins`.
fn pair(
    fields: &mut Fields,
    prompt: Vec<Message>,
    names: [&str; 2],
    first_wins: f64,
) -> Result<Draft, String> {
    let answer = |name: &str| Ok::<_, String>((name.to_string(), turns(name, column(fields, name)?)?));
    let answers = [answer(names[0])?, answer(names[1])?];
    let (answers, label) = in_order(answers, first_wins);
    Ok(Draft::pair(Some(label), chat_pair(prompt, answers, fields)?))
}

fn in_order<T>([first, second]: [T; 2], first_wins: f64) -> ([T; 2], f32) {
    if first_wins >= 0.5 {
        ([first, second], first_wins as f32)
    } else {
        ([second, first], 1.0 - first_wins as f32)
    }
}

/// Splits HelpSteer2's prompt into messages: the user's first, then those behind `<extra_id_1>Assistant` and
/// `<extra_id_1>User`.
fn turns_of(prompt: &str) -> Result<Vec<Message>, String> {
    let mut found = Vec::new();
    for (i, turn) in prompt.split(TURN).enumerate() {
        let (role, text) = match turn.split_once('\n') {
            _ if i == 0 => ("user", turn),
            Some(("User", text)) => ("user", text),
            Some(("Assistant", text)) => ("assistant", text),
            _ => {
                return Err(format!(
                    "prompt has a {TURN} without \"User\" or \"Assistant\" and a line break behind it"
                ));
            }
        };
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(format!("turn {} of prompt is empty", i + 1));
        }
        found.push(Message::new(role, text));
    }
    Ok(found)
}

/// PKU-SafeRLHF: `better_response_id` is 0 or 1.
pub(super) fn pku(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = vec![user(fields, "prompt")?];
    let names = match choice(fields, "better_response_id")? {
        0 => ["response_0", "response_1"],
        _ => ["response_1", "response_0"],
    };
    let answer = |name: &str| Ok::<_, String>((name.to_string(), turns(name, column(fields, name)?)?));
    let answers = [answer(names[0])?, answer(names[1])?];
    Ok(Draft::pair(None, chat_pair(prompt, answers, fields)?))
}

/// The columns of two answers and the votes for them.
pub(super) const VOTES: [&str; 4] = [
    "response_a|answer_a|completion_a",
    "response_b|answer_b|completion_b",
    "wins_a|votes_a",
    "wins_b|votes_b",
];

/// Votes: y is the share of the votes for the preferred answer.
pub(super) fn votes(fields: &mut Fields) -> Result<Draft, String> {
    let mut found = Vec::new();
    for names in VOTES {
        let Some((name, value)) = first(fields, names) else {
            return Err(format!("{names} is missing or null"));
        };
        found.push((name, value.clone()));
    }
    let [a, b, wins_a, wins_b] = found.as_slice() else {
        return Err("two answers and their votes are missing".into());
    };
    let won = share([(wins_a.0, &wins_a.1), (wins_b.0, &wins_b.1)])?;
    let ([first, second], label) = in_order([a, b], won);
    let named = [(first.0.to_string(), &first.1), (second.0.to_string(), &second.1)];
    if first.1 == second.1 {
        return Err(format!(
            "{} and {} are equal; a pair without a difference teaches nothing, remove it",
            a.0, b.0
        ));
    }
    let content = match super::super::fields::first(fields, "question|instruction") {
        Some((question, _)) if given(fields, "prompt").is_none() => {
            let prompt = vec![user(fields, question)?];
            let [(first, chosen), (second, rejected)] = named;
            let answers = [turns(&first, chosen)?, turns(&second, rejected)?];
            let [chosen, rejected] = answers;
            chat_pair(prompt, [(first, chosen), (second, rejected)], fields)?
        }
        _ => behind_prompt(fields, &named)?,
    };
    Ok(Draft::pair(Some(label), content))
}

/// Chatbot Arena: `winner` is `model_a`, `model_b`, `tie` or `tie (bothbad)`. A tie is a pair with y = 0.5.
pub(super) fn arena(fields: &mut Fields) -> Result<Draft, String> {
    let winner = column(fields, "winner")?;
    let first_wins = match winner.as_str() {
        Some("model_a") => 1.0,
        Some("model_b") => 0.0,
        Some("tie" | "tie (bothbad)") => 0.5,
        _ => {
            return Err(format!(
                "winner must be model_a, model_b, tie or \"tie (bothbad)\", found {}",
                described(winner)
            ));
        }
    };
    let whole = |name: &str| {
        let value = column(fields, name)?;
        let list = value
            .as_array()
            .ok_or_else(|| format!("{name} must be a list of messages, found {}", described(value)))?;
        messages(name, list)
    };
    let (a, b) = (whole("conversation_a")?, whole("conversation_b")?);
    let equal = a == b;
    let (prompt, a, b) = split_conversations(a, b);
    if prompt.is_empty() && !equal {
        return Err(
            "conversation_a and conversation_b have no first message in common; it is the prompt".into()
        );
    }
    let answers = [("conversation_a".to_string(), a), ("conversation_b".to_string(), b)];
    let (answers, label) = in_order(answers, first_wins);
    let label = Some(label).filter(|label| *label < 1.0);
    Ok(Draft::pair(label, chat_pair(prompt, answers, fields)?))
}
