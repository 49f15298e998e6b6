//! The content of a record apart from its label: texts or conversations.

use serde_json::Value as Json;

use super::fields::Fields;
use super::messages::Message;

/// A prompt and its answers. For a pair, the chosen answer comes first, then the rejected one.
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
