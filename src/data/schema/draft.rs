//! What every schema is read into, and the steps that the schemas share.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::doubt::Doubt;
use super::super::example::Kind;
use super::super::fields::{Fields, described, equal, given, shortened};
use super::super::messages::{Message, kwargs, message, messages, tools};
use super::encoded::refuse_encoded;
use super::repeats::{is_long, repeats};
use super::weights::refuse_excluded;

/// A record without its origin.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::data) struct Draft {
    /// The kind of the record.
    pub(in crate::data) kind: Kind,
    /// Whether the degree of preference is from the row and not assumed.
    pub(in crate::data) labelled: bool,
    /// The prompt and the answers.
    pub(in crate::data) content: Content,
    /// What is doubtful about it.
    pub(in crate::data) doubts: Vec<Doubt>,
}

impl Draft {
    /// A record of `kind` without a label of its own.
    pub(super) fn new(kind: Kind, content: Content) -> Self {
        Self { kind, labelled: false, content, doubts: Vec::new() }
    }

    /// A pair with y = `label`, or without a label.
    pub(super) fn pair(label: Option<f32>, content: Content) -> Self {
        Self {
            kind: Kind::pair(label.unwrap_or(1.0)),
            labelled: label.is_some(),
            content,
            doubts: Vec::new(),
        }
    }
}

/// A text or conversation with the name of its column.
pub(super) type Named<T> = (String, T);

/// Returns the column `name`, which the schema needs.
pub(super) fn column<'a>(fields: &'a Fields, name: &str) -> Result<&'a Json, String> {
    given(fields, name).ok_or_else(|| format!("{name} is missing or null"))
}

/// Returns the string `value`, unless it is a conversation written as text.
pub(super) fn text<'a>(name: &str, value: &'a Json) -> Result<&'a str, String> {
    let Json::String(text) = value else {
        return Err(format!("{name} must be a string, found {}", described(value)));
    };
    refuse_encoded(name, text)?;
    Ok(text)
}

/// Returns the string `value`, which must not be blank.
pub(super) fn filled<'a>(name: &str, value: &'a Json) -> Result<&'a str, String> {
    let text = text(name, value)?;
    if text.trim().is_empty() { Err(format!("{name} is empty")) } else { Ok(text) }
}

/// Returns the string of the column `name`.
pub(super) fn text_column<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, String> {
    filled(name, column(fields, name)?)
}

/// Reads an answer of a conversation: a string, a message or a list of messages.
pub(super) fn turns(name: &str, value: &Json) -> Result<Vec<Message>, String> {
    match value {
        Json::String(_) => Ok(vec![Message::new("assistant", text(name, value)?)]),
        Json::Array(list) => messages(name, list),
        Json::Object(_) => Ok(vec![message(name, value)?]),
        other => Err(format!(
            "{name} must be a string, a message or a list of messages, found {}",
            described(other)
        )),
    }
}

/// Checks two texts behind a prompt.
pub(super) fn text_pair(prompt: String, answers: [Named<String>; 2]) -> Result<Content, String> {
    let [(first, chosen), (second, rejected)] = &answers;
    if chosen == rejected {
        return Err(equal(first, second, chosen));
    }
    for (name, text) in &answers {
        if text.trim().is_empty() {
            return Err(blank(name, text));
        }
    }
    let named = [(first.clone(), chosen.as_str()), (second.clone(), rejected.as_str())];
    refuse_repeated(&prompt, &named)?;
    Ok(Content::Text { prompt, answers: answers.map(|(_, text)| text).into() })
}

/// Refuses answers that all begin with the prompt. A single one may quote a prompt of one word.
pub(super) fn refuse_repeated(prompt: &str, answers: &[Named<&str>]) -> Result<(), String> {
    let quotes = answers.len() == 1 && !is_long(prompt);
    if quotes || answers.is_empty() || !answers.iter().all(|(_, answer)| repeats(prompt, answer)) {
        return Ok(());
    }
    let names: Vec<&str> = answers.iter().take(2).map(|(name, _)| name.as_str()).collect();
    let (verb, them) = if names.len() == 1 { ("repeats", "it") } else { ("repeat", "them") };
    let its = if names.len() == 1 { "its" } else { "their" };
    Err(format!(
        "{} {verb} prompt ({}) at {its} beginning; remove it from {them}, or leave prompt out (data.columns: {{prompt: null}})",
        names.join(" and "),
        shortened(prompt)
    ))
}

/// Checks two answers of a conversation and adds what its template reads.
pub(super) fn chat_pair(
    prompt: Vec<Message>,
    answers: [Named<Vec<Message>>; 2],
    fields: &mut Fields,
) -> Result<Content, String> {
    let [(first, chosen), (second, rejected)] = &answers;
    if chosen == rejected {
        return Err(equal(first, second, chosen.last().map_or("", Message::content)));
    }
    if chosen.starts_with(&prompt) && rejected.starts_with(&prompt) && !prompt.is_empty() {
        return Err(format!("{first} and {second} repeat the messages of prompt; leave prompt out, or them"));
    }
    chat(prompt, answers.into(), fields)
}

/// Checks the turns of a conversation and adds what its template reads.
pub(super) fn chat(
    prompt: Vec<Message>,
    answers: Vec<Named<Vec<Message>>>,
    fields: &mut Fields,
) -> Result<Content, String> {
    for (name, turns) in &answers {
        if turns.iter().all(Message::is_silent) {
            return Err(blank(name, turns.last().map_or("", Message::content)));
        }
        refuse_excluded(name, turns)?;
        if let Some(last) = turns.last().filter(|last| !last.is_answer()) {
            return Err(format!(
                "{name} ends with a message of {}; an answer ends with a message of the assistant, remove what follows it",
                last.role()
            ));
        }
        if let (Some(before), Some(after)) = (prompt.last(), turns.first())
            && before.role() == "assistant"
            && after.role() == "assistant"
            && !before.calls_tools()
        {
            return Err(format!(
                "prompt ends with a message of the assistant ({}) and {name} begins with another one; end prompt with the \
                 user's message",
                shortened(before.content())
            ));
        }
    }
    refuse_repeated_turn(&prompt, &answers)?;
    let answers = answers.into_iter().map(|(_, turns)| turns).collect();
    Ok(Content::Chat { prompt, answers, tools: tools(fields)?, kwargs: kwargs(fields)? })
}

/// Refuses answers that begin with the last message of the prompt, or all with its text.
fn refuse_repeated_turn(prompt: &[Message], answers: &[Named<Vec<Message>>]) -> Result<(), String> {
    let Some(last) = prompt.last().filter(|last| !last.is_answer()) else { return Ok(()) };
    if let Some((name, _)) = answers.iter().find(|(_, turns)| turns.first() == Some(last)) {
        return Err(format!(
            "{name} repeats the last message of prompt ({}); leave it out of one of them",
            shortened(last.content())
        ));
    }
    let begins = |turns: &[Message]| {
        turns.first().is_some_and(|turn| turn.is_answer() && repeats(last.content(), turn.content()))
    };
    if is_long(last.content()) && answers.len() > 1 && answers.iter().all(|(_, turns)| begins(turns)) {
        return Err(format!(
            "{} and {} repeat the last message of prompt ({}) at their beginning; remove it from them",
            answers[0].0,
            answers[1].0,
            shortened(last.content())
        ));
    }
    Ok(())
}

/// Describes an answer that says nothing.
pub(super) fn blank(name: &str, text: &str) -> String {
    let space = if text.is_empty() { "" } else { " (only white space)" };
    let need = if name.starts_with("chosen") || name.starts_with("rejected") {
        "every pair needs two non-empty completions"
    } else {
        "a record needs a completion to score"
    };
    format!("{name} is empty{space}; {need}")
}

/// Starts a conversation with the system prompt, if the column `name` has one.
pub(super) fn system_messages(fields: &Fields, name: &str) -> Result<Vec<Message>, String> {
    let Some(value) = given(fields, name) else { return Ok(Vec::new()) };
    let system = text(name, value)?;
    Ok(if system.trim().is_empty() { Vec::new() } else { vec![Message::new("system", system)] })
}
