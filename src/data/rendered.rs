//! What a chat template did not write. A template that knows no system prompts, tools or calls leaves them out without an
//! error; the model would be trained on a conversation that is not the record's.
//!
//! A text counts as written if its letters and digits stand in the rendered text in their order: templates trim, escape
//! and wrap what they write. What short texts say may stand there by chance, so not everything is found.

use std::cell::OnceCell;

use serde_json::Value as Json;

use super::content::Content;
use super::doubt::{About, Doubt};
use super::example::Kind;
use super::fields::{Fields, shortened};
use super::messages::Message;
use super::schema::may_be_content;

/// How a list of text parts looks where a template writes it as if it were a text.
const LIST: [&str; 2] = ["[{'type':", "[{\"type\":"];
/// Fields of a message with its reasoning.
const REASONING: [&str; 8] = [
    "reasoning_content",
    "thinking",
    "reasoning",
    "thought",
    "thoughts",
    "rationale",
    "analysis",
    "chain_of_thought",
];
/// Fields of a message that are looked for in another way, or not at all.
const KNOWN: [&str; 5] = ["role", "content", "name", "tool_calls", "tool_call_id"];

/// A rendered text, and its letters and digits.
struct Rendered<'a> {
    text: &'a str,
    letters: OnceCell<String>,
}

impl<'a> Rendered<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, letters: OnceCell::new() }
    }

    /// Whether `text` was written in some form.
    fn has(&self, text: &str) -> bool {
        let text = text.trim();
        if self.text.contains(text) {
            return true;
        }
        let all = self.letters.get_or_init(|| letters(self.text));
        if all.contains(&letters(text)) {
            return true;
        }
        // As JSON, with and without escapes of what is not ASCII.
        let escaped: String = text.chars().flat_map(char::escape_default).collect();
        let json = Json::from(text).to_string();
        let unicode: String =
            text.chars().map(|c| if c.is_ascii() { c.to_string() } else { utf16(c) }).collect();
        [escaped, json, Json::from(unicode).to_string()].iter().any(|form| all.contains(&letters(form)))
    }
}

/// Python's escape of a character in JSON, without its backslashes.
fn utf16(c: char) -> String {
    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("u{unit:04x}")).collect()
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Compares a conversation with `texts`, one for each answer.
///
/// # Errors
/// If nothing of an answer was written.
pub(super) fn doubts(content: &Content, kind: Kind, texts: &[String]) -> Result<Vec<Doubt>, String> {
    let Content::Chat { prompt, answers, tools, kwargs } = content else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (index, (answer, text)) in answers.iter().zip(texts).enumerate() {
        let rendered = Rendered::new(text);
        of_lists(prompt.iter().chain(answer), &rendered, &mut found);
        if index == 0 {
            prompt.iter().for_each(|message| of_message(message, &rendered, &mut found));
            of_tools(tools.as_ref(), kwargs.as_ref(), &rendered, &mut found);
        }
        let mut own = Vec::new();
        answer.iter().for_each(|message| of_message(message, &rendered, &mut own));
        prompt.iter().chain(answer).for_each(|message| of_fields(message, &rendered, &mut found));
        let said: usize = answer.iter().map(said).sum();
        if said > 0 && own.len() == said {
            let what = own.first().map_or("", |doubt| doubt.what.as_str());
            return Err(format!(
                "the chat template writes nothing of {} ({what}), so that there is nothing to learn from; use a chat template \
                 that writes it (data.chat_template), or remove the record",
                kind.field(index)
            ));
        }
        found.extend(own);
        if let Some(last) = answer.last() {
            if last.role() != "assistant" {
                found.push(Doubt::new(About::Role, format!("{:?}", shortened(last.role()))));
            }
            of_reasoning(last, &rendered, &mut found);
        }
    }
    // One of each kind: records are counted.
    let mut kinds = Vec::new();
    found.retain(|doubt| {
        !kinds.contains(&doubt.about) && {
            kinds.push(doubt.about);
            true
        }
    });
    Ok(found)
}

/// The texts of a message's content. Templates leave out the reasoning of earlier turns on purpose.
fn contents(message: &Message) -> Vec<&str> {
    let texts: Vec<&str> = match message.fields().get("content") {
        Some(Json::String(text)) => vec![text.as_str()],
        Some(Json::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        Some(Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_)) | None => Vec::new(),
    };
    let is_answer = message.is_answer();
    let visible = |text: &'_ str| -> usize {
        if is_answer { text.rfind("</think>").map_or(0, |at| at + "</think>".len()) } else { 0 }
    };
    texts
        .into_iter()
        .map(|text| text[visible(text)..].trim())
        .filter(|text| !letters(text).is_empty())
        .collect()
}

/// The names of the functions that a message calls.
fn calls(message: &Message) -> Vec<&str> {
    let list =
        message.fields().get("tool_calls").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(function).collect()
}

/// The name of a function, of a call or of a tool.
fn function(value: &Json) -> Option<&str> {
    value.get("function").unwrap_or(value).get("name")?.as_str().filter(|name| !letters(name).is_empty())
}

/// How much of a message can be looked for.
fn said(message: &Message) -> usize {
    contents(message).len() + calls(message).len()
}

fn of_message(message: &Message, rendered: &Rendered, found: &mut Vec<Doubt>) {
    let role = message.role();
    let about = if ["system", "developer"].contains(&role) { About::System } else { About::Message };
    for text in contents(message) {
        if !rendered.has(text) {
            found.push(Doubt::new(about, format!("{:?} of {role}", shortened(text))));
        }
    }
    for name in calls(message) {
        if !rendered.has(name) {
            found.push(Doubt::new(About::ToolCalls, format!("a call of {name:?}")));
        }
    }
}

/// Looks for texts in further fields. The reasoning of earlier turns is left out on purpose.
fn of_fields(message: &Message, rendered: &Rendered, found: &mut Vec<Doubt>) {
    for (name, value) in message.fields() {
        let is_known = KNOWN.contains(&name.as_str()) || REASONING.contains(&name.as_str());
        let text = value.as_str().filter(|text| !is_known && may_be_content(name, text));
        if let Some(text) = text.filter(|text| !rendered.has(text)) {
            found.push(Doubt::new(
                About::Field,
                format!("{name} ({:?}) of {}", shortened(text), message.role()),
            ));
        }
    }
}

/// Looks for the reasoning of the last turn, and for arguments that a template wrote as a quoted text.
fn of_reasoning(message: &Message, rendered: &Rendered, found: &mut Vec<Doubt>) {
    let field = REASONING.iter().find_map(|name| message.fields().get(*name)?.as_str());
    let within = message.content().split_once("</think>").map(|(thought, _)| thought);
    let within = within.map(|thought| thought.trim_start().trim_start_matches("<think>"));
    if let Some(thought) = field.or(within).filter(|text| !letters(text).is_empty() && !rendered.has(text)) {
        found.push(Doubt::new(About::Reasoning, format!("{:?}", shortened(thought.trim()))));
    }
    let list =
        message.fields().get("tool_calls").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    for call in list {
        let arguments = call.get("function").unwrap_or(call).get("arguments");
        if let Some(Json::String(text)) = arguments
            && matches!(serde_json::from_str(text), Ok(Json::Object(_)))
            && text.contains('"')
            && rendered.text.contains(&Json::from(text.as_str()).to_string())
        {
            found.push(Doubt::new(About::Arguments, shortened(text)));
        }
    }
}

fn of_tools(tools: Option<&Json>, kwargs: Option<&Fields>, rendered: &Rendered, found: &mut Vec<Doubt>) {
    let kwarg = |name: &str| kwargs.and_then(|kwargs| kwargs.get(name)).and_then(Json::as_array);
    let tools =
        kwarg("tools").or_else(|| tools.and_then(Json::as_array)).map(Vec::as_slice).unwrap_or_default();
    if let Some(name) = tools.iter().filter_map(function).find(|name| !rendered.has(name)) {
        found.push(Doubt::new(About::Tools, format!("{name:?}")));
    }
    for document in kwarg("documents").map(Vec::as_slice).unwrap_or_default() {
        let Json::Object(fields) = document else { continue };
        let mut texts =
            fields.values().filter_map(Json::as_str).filter(|text| !letters(text).is_empty()).peekable();
        if let Some(first) = texts.peek().copied()
            && !texts.any(|text| rendered.has(text))
        {
            found.push(Doubt::new(About::Documents, format!("{:?}", shortened(first))));
        }
    }
}

/// Finds a list of text parts that the template wrote as Python or JSON prints a list. It is what transformers does, too.
fn of_lists<'a>(messages: impl Iterator<Item = &'a Message>, rendered: &Rendered, found: &mut Vec<Doubt>) {
    let Some(list) = LIST.iter().find(|list| rendered.text.contains(**list)) else { return };
    let is_list = |message: &&Message| {
        message.fields().get("content").is_some_and(Json::is_array) && !message.says(list)
    };
    let written = messages
        .filter(is_list)
        .map(|message| Doubt::new(About::Parts, format!("{list}... of {}", message.role())));
    found.extend(written);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(list: Json) -> Vec<Message> {
        let Json::Array(list) = list else { panic!("a list") };
        let message = |value| match value {
            Json::Object(fields) => Message::from_fields(fields),
            other => panic!("{other}"),
        };
        list.into_iter().map(message).collect()
    }

    fn found(prompt: Json, answer: Json, tools: Option<Json>, text: &str) -> Result<Vec<About>, String> {
        let content =
            Content::Chat { prompt: messages(prompt), answers: vec![messages(answer)], tools, kwargs: None };
        doubts(&content, Kind::Text, &[text.to_owned()])
            .map(|doubts| doubts.into_iter().map(|d| d.about).collect())
    }

    #[test]
    fn what_a_template_leaves_out_is_named() {
        let prompt =
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which river?"}]);
        let answer = json!([{"role": "assistant", "content": "<think>Hm, rivers</think>\nLoire é"}]);
        let find = |text: &str| {
            found(prompt.clone(), answer.clone(), Some(json!([{"function": {"name": "look_up"}}])), text)
        };
        let whole = "Be brief.|look_up|Which  river?|Hm, rivers|Loire \\u00e9";
        assert_eq!(find(whole), Ok(vec![]));
        assert_eq!(find(&whole.replace("Be brief.", "")), Ok(vec![About::System]));
        assert_eq!(find(&whole.replace("look_up", "")), Ok(vec![About::Tools]));
        assert_eq!(find(&whole.replace("Which", "")), Ok(vec![About::Message]));
        assert_eq!(find(&whole.replace("Hm", "")), Ok(vec![About::Reasoning]));
        let error = find(&whole.replace("Loire", "")).unwrap_err();
        assert!(error.contains("writes nothing of") && error.contains("Loire"), "{error}");
    }

    #[test]
    fn fields_and_roles_that_a_template_does_not_know_are_found() {
        let prompt =
            json!([{"role": "user", "content": "Which?", "context": "The Loire is long.", "id": "a b c d"}]);
        let find = |answer: Json, text: &str| found(prompt.clone(), json!([answer]), None, text);
        let plain = || json!({"role": "assistant", "content": "So"});
        assert_eq!(find(plain(), "The Loire is long. Which? So"), Ok(vec![]));
        assert_eq!(find(plain(), "Which? So"), Ok(vec![About::Field]));
        for name in ["thought", "rationale", "analysis"] {
            let answer = json!({"role": "assistant", "content": "So", name: "Rivers are long, I think"});
            assert_eq!(find(answer, "The Loire is long. Which? So"), Ok(vec![About::Reasoning]), "{name}");
        }
        let narrator = json!({"role": "narrator", "content": "So"});
        assert_eq!(find(narrator, "The Loire is long. Which? So"), Ok(vec![About::Role]));
    }

    #[test]
    fn calls_and_lists_are_found() {
        let prompt = json!([{"role": "user", "content": [{"type": "text", "text": "Which?"}]}]);
        let call = json!([{"role": "assistant", "content": "So:", "tool_calls":
            [{"function": {"name": "look_up", "arguments": "{\"a\": 1}"}}]}]);
        let find = |text: &str| found(prompt.clone(), call.clone(), None, text);
        assert_eq!(find("Which? So: look_up {\"a\": 1}"), Ok(vec![]));
        assert_eq!(find("Which? So: "), Ok(vec![About::ToolCalls]));
        assert_eq!(find("Which? So: look_up \"{\\\"a\\\": 1}\""), Ok(vec![About::Arguments]));
        let listed = find("[{'type': 'text', 'text': 'Which?'}] So: look_up");
        assert!(listed.as_ref().is_ok_and(|found| found.contains(&About::Parts)), "{listed:?}");
    }
}
