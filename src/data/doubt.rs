//! What makes a valid record doubtful: it can be read, and may mean something else than what is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cases::Cases;

/// What is doubtful about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// A column that is not read says that the rejected answer is the better one, or that none is.
    Preference,
    /// A cell of a CSV file that spells a missing value and is a whole prompt or answer.
    Cell,
    /// Arguments of a tool that are a text with JSON, where a template expects an object.
    Arguments,
    /// The system prompt, which the template did not write.
    System,
    /// The tools, which the template did not write.
    Tools,
    /// Calls of tools, which the template did not write.
    ToolCalls,
    /// Documents, which the template did not write.
    Documents,
    /// A list of text parts that the template wrote as a list.
    Parts,
    /// Reasoning, which the template did not write.
    Reasoning,
    /// Another message, which the template did not write.
    Message,
    /// No answer ends in a special token.
    End,
    /// A gold answer, which nothing imitates.
    Gold,
    /// The beginning of the assistant's turn, which is scored.
    Header,
    /// The end of a prompt that has other tokens with an answer behind it.
    Border,
}

impl About {
    /// What was found, behind "in N records", and the remedy.
    fn words(self) -> (&'static str, &'static str) {
        const TEMPLATE: &str =
            "use a chat template that writes it (data.chat_template), or take it out of the records";
        match self {
            Self::Preference => (
                "a column that is not read contradicts chosen and rejected",
                "swap the two (data.columns: {chosen: rejected, rejected: chosen}), leave such rows out with data.filter, or \
                 leave the column out (data.columns: {NAME: null})",
            ),
            Self::Cell => (
                "a cell that spells a missing value is a whole prompt or answer",
                "leave such rows out with data.filter, or keep them if the word is the answer",
            ),
            Self::Arguments => (
                "the arguments of a tool call are a text and not an object, and templates write it as a quoted text",
                "write the arguments as an object",
            ),
            Self::System => ("the chat template does not write the system prompt", TEMPLATE),
            Self::Tools => ("the chat template does not write the tools", TEMPLATE),
            Self::ToolCalls => ("the chat template does not write a call of a tool", TEMPLATE),
            Self::Documents => ("the chat template does not write the documents", TEMPLATE),
            Self::Parts => (
                "the chat template does not know text parts and writes the content of a message as a list",
                "write content as a string, or use another chat template (data.chat_template)",
            ),
            Self::Reasoning => ("the chat template does not write the reasoning", TEMPLATE),
            Self::Message => ("the chat template does not write the text of a message", TEMPLATE),
            Self::End => (
                "no answer ends in a special token, so that the model does not learn where to stop",
                "use a chat template that ends the assistant's turn with one (data.chat_template)",
            ),
            Self::Header => (
                "the chat template begins the assistant's turn in the conversation and not in the prompt, so that this is scored as \
                 a part of the answer",
                "use a chat template that writes it if add_generation_prompt is true (data.chat_template)",
            ),
            Self::Border => (
                "the end of the prompt is tokenized in another way if an answer stands behind it, so that the model learns to \
                 answer another prompt than it will see",
                "begin answers with the white space between them, and do not end prompts with it",
            ),
            Self::Gold => (
                "there is a gold answer and nothing imitates it",
                "take a loss that does (objective.loss_type: tpo), or leave the column out (data.columns: {reference: null})",
            ),
        }
    }
}

/// One doubt about a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The kind of the doubt.
    pub about: About,
    /// Field and value.
    pub what: String,
}

impl Doubt {
    /// Creates a doubt.
    pub(super) fn new(about: About, what: String) -> Self {
        Self { about, what }
    }
}

/// The doubts about all records: their number by kind, with the first places.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Doubts(BTreeMap<About, Cases>);

impl Doubts {
    /// Counts the doubts about the record at `place`.
    pub(super) fn add(&mut self, place: &impl ToString, doubts: Vec<Doubt>) {
        for Doubt { about, what } in doubts {
            self.0.entry(about).or_default().add(place.to_string(), what);
        }
    }

    /// Describes the doubts about some of `records` records, one sentence per kind.
    pub(super) fn notes(&self, records: usize) -> Vec<String> {
        let described = |(about, cases): (&About, &Cases)| {
            let (found, remedy) = about.words();
            let first = cases.described().unwrap_or_default();
            format!("in {} of {records} records {found}: {first}; {remedy}", cases.count)
        };
        self.0.iter().map(described).collect()
    }
}
