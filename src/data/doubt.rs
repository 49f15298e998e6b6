//! What makes a valid record doubtful: it can be read, and may mean something else than what is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cases::Cases;
use super::fields::{key, listed};

/// What is doubtful about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// A column that is not read says that the rejected answer is the better one, or that none is.
    Preference,
    /// A text that spells a missing value and is a whole prompt, input or answer.
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
    /// A column with text that nothing reads.
    Unread,
    /// An answer that begins with its prompt.
    Repeated,
    /// An answer that goes on with the user's turn.
    Turn,
    /// An answer of another role than the assistant's.
    Role,
    /// A field of a message with text, which the template did not write.
    Field,
}

impl About {
    /// What was found, behind "in N records", and the remedy.
    fn words(self) -> (&'static str, &'static str) {
        const TEMPLATE: &str =
            "use a chat template that writes it (data.chat_template), or take it out of the records";
        match self {
            Self::Preference => (
                "something that is not read contradicts which answer is preferred",
                "swap the two answers if it is right (for example data.columns: {chosen: rejected, rejected: chosen}), leave \
                 such rows out with data.filter, or leave its whole column out (data.columns: {NAME: null}; of NAME.FIELD, NAME)",
            ),
            Self::Cell => (
                "a text that spells a missing value is a whole prompt, input or answer",
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
            Self::Unread => (
                "a column with text is not read",
                "add to the prompt what the model should read, and leave columns out that only describe the row",
            ),
            Self::Repeated => (
                "an answer begins with its prompt, which stands there twice",
                "remove it from the answer, unless it is meant to quote it",
            ),
            Self::Turn => (
                "an answer goes on with a turn of the user, which is scored",
                "cut the text behind the answer, or leave such rows out with data.filter",
            ),
            Self::Role => (
                "an answer is of a role that is not the assistant's, and the model would learn to write the turn of this role",
                "write assistant",
            ),
            Self::Field => ("the chat template does not write a field of a message", TEMPLATE),
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
        let (unread, others): (Vec<_>, Vec<_>) =
            doubts.into_iter().partition(|doubt| doubt.about == About::Unread);
        for Doubt { about, what } in others {
            self.0.entry(about).or_default().add(place.to_string(), what);
        }
        if !unread.is_empty() {
            let texts = unread.into_iter().map(|doubt| doubt.what);
            self.0.entry(About::Unread).or_default().add_columns(&place.to_string(), texts);
        }
    }

    /// Describes the doubts about some of `records` records, one sentence per kind.
    pub(super) fn notes(&self, records: usize) -> Vec<String> {
        let described = |(about, cases): (&About, &Cases)| {
            let (found, remedy) = about.words();
            if *about == About::Unread {
                let (names, first) = cases.columns()?;
                let keys: Vec<String> = names.iter().map(|name| format!("{}: null", key(name))).collect();
                return Some(format!(
                    "in {} of {records} records {found}: {} ({first}); {remedy} (data.columns: {{{}}})",
                    cases.count,
                    listed(names.iter().copied()),
                    keys.join(", ")
                ));
            }
            let first = cases.described().unwrap_or_default();
            Some(format!("in {} of {records} records {found}: {first}; {remedy}", cases.count))
        };
        self.0.iter().filter_map(described).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_with_varying_texts_or_sentences_are_told_of_once() {
        let of = |texts: &[[&str; 2]]| {
            let mut doubts = Doubts::default();
            for (line, columns) in texts.iter().enumerate() {
                let of_column =
                    |(name, text): (&str, &str)| Doubt::new(About::Unread, format!("`{name}` ({text:?})"));
                let found = ["a b", "kind"].into_iter().zip(*columns).map(of_column).collect();
                doubts.add(&format!("t:{}", line + 1), found);
            }
            doubts.notes(9).join("\n")
        };
        let texts = ["a text one", "a text two", "a text three", "a text four"];
        let varying = of(&texts.map(|text| [text, "an open kind"]));
        for part in [
            "in 4 of 9 records a column with text is not read: `a b` (t:1: \"a text one\")",
            "{\"a b\": null})",
        ] {
            assert!(varying.contains(part), "{part}: {varying}");
        }
        assert!(!varying.contains("kind"), "{varying}");
        let persona = of(&[["You are a pirate.", "an open kind"], ["You are a pirate.", "an open kind"]]);
        assert!(persona.contains("`a b` (t:1") && !persona.contains("kind"), "{persona}");
        assert_eq!(of(&[["an open one", "an open kind"], ["an open one", "an open kind"]]), "");
    }
}
