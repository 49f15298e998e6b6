//! The content of a record apart from its label: texts or conversations.

use serde_json::Value as Json;

use super::fields::Fields;
use super::messages::Message;

/// A prompt and its answers. For a pair, the chosen answer comes first, then the rejected one, then the gold one if there
/// is one.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Plain text. The chat template is not applied.
    Text {
        /// The prompt, possibly empty.
        prompt: String,
        /// The texts that follow the prompt.
        answers: Vec<String>,
    },
    /// Conversations, which the chat template renders.
    Chat {
        /// The messages shared by all answers.
        prompt: Vec<Message>,
        /// The messages that follow the prompt, per answer.
        answers: Vec<Vec<Message>>,
        /// The record's `tools`, passed to the template.
        tools: Option<Json>,
        /// The record's `chat_template_kwargs`, which become template variables.
        kwargs: Option<Fields>,
    },
}

impl Content {
    /// Returns the prompt as people read it, before any chat template: a text as it is, of one message its content, and of
    /// several messages each with its speaker.
    pub fn prompt_text(&self) -> String {
        match self {
            Self::Text { prompt, .. } => prompt.clone(),
            Self::Chat { prompt, .. } => conversation(prompt),
        }
    }

    /// Leaves out all answers but the first `count`.
    pub(super) fn keep_answers(&mut self, count: usize) {
        match self {
            Self::Text { answers, .. } => answers.truncate(count),
            Self::Chat { answers, .. } => answers.truncate(count),
        }
    }

    /// The number of its answers.
    pub(super) fn answers(&self) -> usize {
        match self {
            Self::Text { answers, .. } => answers.len(),
            Self::Chat { answers, .. } => answers.len(),
        }
    }

    /// The bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text { prompt, answers } => prompt.len() + answers.iter().map(String::len).sum::<usize>(),
            Self::Chat { prompt, answers, tools, kwargs } => {
                let messages = prompt.iter().chain(answers.iter().flatten());
                messages.map(|message| of_fields(message.fields())).sum::<usize>()
                    + tools.as_ref().map_or(0, of_value)
                    + kwargs.as_ref().map_or(0, of_fields)
            }
        }
    }
}

/// Returns messages as text: the content of one message, or several as `role: content` with empty lines between them.
pub fn conversation(messages: &[Message]) -> String {
    match messages {
        [message] => message.content().to_string(),
        several => several
            .iter()
            .map(|message| format!("{}: {}", message.role(), message.content()))
            .collect::<Vec<_>>()
            .join("\n\n"),
    }
}

fn of_fields(fields: &Fields) -> usize {
    fields.iter().map(|(name, value)| name.len() + of_value(value)).sum()
}

/// Lists and objects are at most as deep as their JSON could be.
fn of_value(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
        Json::String(text) => text.len(),
        Json::Array(values) => values.iter().map(of_value).sum(),
        Json::Object(fields) => of_fields(fields),
    }
}
