//! A question in a column of its own, often with a system prompt, and two answers that are strings: Intel's, argilla's,
//! axolotl's and LLaMA-Factory's forms. They become conversations, as those programs make them.

use serde_json::Value as Json;

use super::super::example::Kind;
use super::super::fields::{Fields, described, first, given};
use super::super::messages::Message;
use super::draft::{Draft, Named, chat, chat_pair, filled, system_messages, text, turns};
use super::judgements::judgement;
use super::preference::label;

/// Columns with a system prompt.
const SYSTEM: &str = "system|system_prompt";

/// Whether both answers can stand behind a question: whole conversations have it already.
pub(super) fn answers_alone(fields: &Fields) -> bool {
    ["chosen", "rejected"].iter().all(|name| match fields.get(*name) {
        Some(Json::Array(list)) => {
            let role = list.first().and_then(|message| message.get("role").or_else(|| message.get("from")));
            role.and_then(Json::as_str).is_some_and(|role| role == "assistant" || role == "gpt")
        }
        Some(Json::String(_) | Json::Object(_)) => true,
        _ => false,
    })
}

/// `system`, `question`, `chosen`, `rejected`.
pub(super) fn orca(fields: &mut Fields) -> Result<Draft, String> {
    pair(fields, "question", ["chosen", "rejected"])
}

/// `system`, `input`, `chosen`, `rejected`.
pub(super) fn distilabel(fields: &mut Fields) -> Result<Draft, String> {
    pair(fields, "input", ["chosen", "rejected"])
}

/// `system`, `prompt`, `chosen`, `rejected`.
pub(super) fn system_prompt(fields: &mut Fields) -> Result<Draft, String> {
    pair(fields, "prompt", ["chosen", "rejected"])
}

/// A question under one of four names, `chosen_response`, `rejected_response`.
pub(super) fn argilla(fields: &mut Fields) -> Result<Draft, String> {
    let question = first(fields, "prompt|input|question|instruction").map_or("prompt", |(name, _)| name);
    pair(fields, question, ["chosen_response", "rejected_response"])
}

/// `instruction`, `input`, `history`, `chosen`, `rejected`.
pub(super) fn alpaca_ranking(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = alpaca_prompt(fields)?;
    behind(fields, prompt, ["chosen", "rejected"])
}

/// `instruction`, `input`, `history`, and `output` with the chosen and the rejected answer.
pub(super) fn alpaca_outputs(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = alpaca_prompt(fields)?;
    let label = label(fields)?;
    let output = fields.get("output").cloned().unwrap_or_default();
    let Json::Array(list) = &output else {
        return Err(format!(
            "output must be a list of the chosen and the rejected answer, found {}",
            described(&output)
        ));
    };
    let [chosen, rejected] = list.as_slice() else {
        return Err(format!(
            "output has {} entries; it needs the chosen and the rejected answer",
            list.len()
        ));
    };
    let answers = [answer("output[0]", chosen)?, answer("output[1]", rejected)?];
    Ok(Draft::pair(label, chat_pair(prompt, answers, fields)?))
}

/// `instruction`, `input`, `history`, `output`; with `kto_tag` or `label`, the output is judged.
pub(super) fn alpaca(fields: &mut Fields) -> Result<Draft, String> {
    let prompt = alpaca_prompt(fields)?;
    let kind = match first(fields, "kto_tag|label") {
        Some((name, value)) => Kind::Judged { desirable: judgement(name, Some(value))? },
        None => Kind::Text,
    };
    let output = fields.get("output").cloned().unwrap_or_default();
    let answer = answer("output", &output)?;
    Ok(Draft::new(kind, chat(prompt, vec![answer], fields)?))
}

fn pair(fields: &mut Fields, question: &str, answers: [&str; 2]) -> Result<Draft, String> {
    let mut prompt = system_prompt_of(fields)?;
    prompt.push(user(fields, question)?);
    behind(fields, prompt, answers)
}

fn behind(fields: &mut Fields, prompt: Vec<Message>, names: [&str; 2]) -> Result<Draft, String> {
    let label = label(fields)?;
    let [chosen, rejected] = names.map(|name| (name, fields.get(name).cloned().unwrap_or_default()));
    let answers = [answer(chosen.0, &chosen.1)?, answer(rejected.0, &rejected.1)?];
    Ok(Draft::pair(label, chat_pair(prompt, answers, fields)?))
}

fn answer(name: &str, value: &Json) -> Result<Named<Vec<Message>>, String> {
    Ok((name.into(), turns(name, value)?))
}

/// Returns the question in the column `name` as the user's message.
pub(super) fn user(fields: &Fields, name: &str) -> Result<Message, String> {
    let value = fields.get(name).cloned().unwrap_or_default();
    Ok(Message::new("user", filled(name, &value)?))
}

fn system_prompt_of(fields: &Fields) -> Result<Vec<Message>, String> {
    system_messages(fields, first(fields, SYSTEM).map_or("system", |(name, _)| name))
}

/// LLaMA-Factory's prompt: the system prompt, the turns of `history`, and instruction and input joined by a line break.
fn alpaca_prompt(fields: &Fields) -> Result<Vec<Message>, String> {
    let mut prompt = system_prompt_of(fields)?;
    match given(fields, "history") {
        None => {}
        Some(Json::Array(turns)) => {
            for (i, turn) in turns.iter().enumerate() {
                prompt.extend(past_turn(i, turn)?);
            }
        }
        Some(other) => {
            return Err(format!("history must be a list of [question, answer], found {}", described(other)));
        }
    }
    let mut question = Vec::new();
    for name in ["instruction", "input"] {
        if let Some(value) = given(fields, name) {
            question.extend(Some(text(name, value)?).filter(|text| !text.trim().is_empty()));
        }
    }
    if question.is_empty() {
        return Err("instruction is empty, and so is input; a record needs a question".into());
    }
    prompt.push(Message::new("user", &question.join("\n")));
    Ok(prompt)
}

fn past_turn(index: usize, turn: &Json) -> Result<[Message; 2], String> {
    let place = format!("history[{index}]");
    match turn.as_array().map(Vec::as_slice) {
        Some([question, answer]) => Ok([
            Message::new("user", filled(&format!("{place}[0]"), question)?),
            Message::new("assistant", filled(&format!("{place}[1]"), answer)?),
        ]),
        _ => Err(format!("{place} must be [question, answer], found {}", described(turn))),
    }
}
