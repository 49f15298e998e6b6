//! The prompt as a list of messages in a column of another name: LLaMA-Factory's, ms-swift's and OpenAI's forms.

use serde_json::Value as Json;

use super::super::fields::{Fields, described, first, given};
use super::super::messages::{Message, messages};
use super::answers::{conversation, last_turn};
use super::draft::{Draft, chat_pair, column, system_messages, turns};
use super::preference::label;

/// `conversations`, `chosen`, `rejected`.
pub(super) fn sharegpt_ranking(fields: &mut Fields) -> Result<Draft, String> {
    ranking(fields, "conversations")
}

/// `messages`, `chosen`, `rejected`.
pub(super) fn messages_ranking(fields: &mut Fields) -> Result<Draft, String> {
    ranking(fields, "messages")
}

/// Whether `messages` are the prompt of two answers: there is no other prompt, and the answers do not begin with them.
pub(super) fn messages_are_the_prompt(fields: &Fields) -> bool {
    let first_message = fields.get("messages").and_then(|list| list.get(0));
    let alone = |name: &str| match fields.get(name) {
        Some(Json::Array(list)) => list.first() != first_message,
        Some(value) => value.is_string() || value.is_object(),
        None => false,
    };
    given(fields, "prompt").is_none() && first_message.is_some() && alone("chosen") && alone("rejected")
}

fn ranking(fields: &mut Fields, name: &str) -> Result<Draft, String> {
    let label = label(fields)?;
    let prompt = prompt(fields, name)?;
    let (chosen, rejected) = (column(fields, "chosen")?, column(fields, "rejected")?);
    let answers =
        [("chosen".into(), turns("chosen", chosen)?), ("rejected".into(), turns("rejected", rejected)?)];
    Ok(Draft::pair(label, chat_pair(prompt, answers, fields)?))
}

/// Returns the messages of the column `name`, behind the system prompt of the column `system`.
fn prompt(fields: &Fields, name: &str) -> Result<Vec<Message>, String> {
    let list = list(name, column(fields, name)?)?;
    let mut prompt = system_messages(fields, "system")?;
    if !prompt.is_empty() && list.first().is_some_and(|first| first.role() == "system") {
        return Err(format!(
            "system and the first message of {name} are both system prompts; keep one of them"
        ));
    }
    prompt.extend(list);
    Ok(prompt)
}

fn list(name: &str, value: &Json) -> Result<Vec<Message>, String> {
    match value {
        Json::Array(list) => messages(name, list),
        Json::String(text) => {
            super::encoded::refuse_encoded(name, text)?;
            Err(format!("{name} must be a list of messages, found {}", described(value)))
        }
        other => Err(format!("{name} must be a list of messages, found {}", described(other))),
    }
}

/// `conversations`, as a text to imitate; with `kto_tag` or `label`, its last turn is judged.
pub(super) fn sharegpt(fields: &mut Fields) -> Result<Draft, String> {
    if let Some(system) = system_messages(fields, "system")?.pop() {
        let start =
            fields.get("conversations").and_then(|list| list.get(0)).and_then(|first| first.get("from"));
        if start.and_then(Json::as_str) == Some("system") {
            return Err(
                "system and the first message of conversations are both system prompts; keep one of them"
                    .into(),
            );
        }
        if let Some(Json::Array(list)) = fields.get_mut("conversations") {
            list.insert(0, Json::Object(system.fields().clone()));
        }
    }
    conversation("conversations", "kto_tag|label", fields)
}

/// ms-swift's `messages`, which end with the chosen answer, and `rejected_response`.
pub(super) fn swift(fields: &mut Fields) -> Result<Draft, String> {
    let label = label(fields)?;
    let (prompt, chosen) = last_turn("messages", prompt(fields, "messages")?)?;
    let rejected = turns("rejected_response", column(fields, "rejected_response")?)?;
    let answers = [("the end of messages".into(), chosen), ("rejected_response".into(), rejected)];
    Ok(Draft::pair(label, chat_pair(prompt, answers, fields)?))
}

fn read_arguments(messages: Vec<Message>) -> Vec<Message> {
    messages.into_iter().map(Message::with_read_arguments).collect()
}

/// OpenAI's `input` (`messages`, `tools`), `preferred_output`, `non_preferred_output`.
pub(super) fn openai(fields: &mut Fields) -> Result<Draft, String> {
    let label = label(fields)?;
    let input = column(fields, "input")?;
    let Json::Object(object) = input else {
        return Err(format!("input must be an object with `messages`, found {}", described(input)));
    };
    let prompt = match given(object, "messages") {
        Some(value) => read_arguments(list("input.messages", value)?),
        None => return Err("input has no `messages`; they are the prompt".into()),
    };
    let tools = given(object, "tools").cloned();
    let output = |names: &str| {
        let Some((name, value)) = first(fields, names) else {
            return Err(format!("{names} is missing or null"));
        };
        if value.is_string() {
            return Err(format!("{name} must be a list of messages, found {}", described(value)));
        }
        Ok((name.to_string(), read_arguments(turns(name, value)?)))
    };
    let answers = [
        output("preferred_output|preferred_completion")?,
        output("non_preferred_output|non_preferred_completion")?,
    ];
    // An empty list means no tools; a template named tool_use would be taken otherwise.
    if let Some(tools) = tools.filter(|tools| tools.as_array().is_none_or(|list| !list.is_empty())) {
        fields.insert("tools".into(), tools);
    }
    Ok(Draft::pair(label, chat_pair(prompt, answers, fields)?))
}
