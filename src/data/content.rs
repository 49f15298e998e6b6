//! What a record holds beside its label: texts or conversations.

use serde_json::Value as Json;

use super::fields::Fields;
use super::messages::Message;

/// The prompt and its answers; of a pair, first the chosen and then the rejected one.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Plain text, never templated.
    Text {
        /// May be empty.
        prompt: String,
        /// What follows it.
        answers: Vec<String>,
    },
    /// Conversations, rendered by the chat template.
    Chat {
        /// The messages all answers share.
        prompt: Vec<Message>,
        /// The messages that follow.
        answers: Vec<Vec<Message>>,
        /// The record's `tools`, handed to the template.
        tools: Option<Json>,
        /// The record's `chat_template_kwargs`, variables of the template.
        kwargs: Option<Fields>,
    },
}
