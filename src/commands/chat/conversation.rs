//! The messages of a conversation, the answers to the last one, and the pairs that are made of them.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::command::{Mode, Named, Save};
use crate::data::{ChatTokenizer, Message};
use crate::error::{Error, Result};

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The model ended it.
    Finished,
    /// It reached the limit of new tokens.
    Limit,
    /// The model has no position left.
    Positions,
    /// It was stopped.
    Stopped,
}

impl Ending {
    /// Why the answer is not finished, in words.
    pub fn unfinished(self) -> Option<&'static str> {
        match self {
            Self::Finished => None,
            Self::Limit => Some("was cut at --max-new-tokens"),
            Self::Positions => Some("was cut at the last position of the model"),
            Self::Stopped => Some("was stopped"),
        }
    }
}

/// An answer to the last message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub side: Mode,
    pub text: String,
    pub ending: Ending,
}

/// A conversation. Without a chat template only the last message counts.
pub(super) struct Conversation {
    system: Option<String>,
    has_template: bool,
    /// Earlier messages with the answers that were kept.
    before: Vec<(String, String)>,
    message: Option<String>,
    answers: Vec<Answer>,
    /// The answer that the conversation goes on with; the last one if nothing was saved.
    kept: Option<usize>,
}

impl Conversation {
    /// An empty conversation.
    pub fn new(system: Option<String>, has_template: bool) -> Self {
        Self { system, has_template, before: Vec::new(), message: None, answers: Vec::new(), kept: None }
    }

    /// Forgets all but the system prompt.
    pub fn reset(&mut self) {
        *self = Self::new(self.system.take(), self.has_template);
    }

    /// Starts over with another system prompt, or with none.
    ///
    /// # Errors
    /// A message if there is no template to put it into.
    pub fn set_system(&mut self, text: Option<String>) -> Result<(), String> {
        if !self.has_template {
            return Err("there is no chat template for a system prompt; start with --chat-template".into());
        }
        self.system = text;
        self.reset();
        Ok(())
    }

    /// Adds a message of the user. The answer to the one before becomes part of the conversation.
    pub fn ask(&mut self, text: String) {
        let answer = self.kept.or(self.answers.len().checked_sub(1)).map(|i| self.answers[i].text.clone());
        if let (Some(message), Some(answer)) = (self.message.take(), answer) {
            self.before.push((message, answer));
        }
        self.message = Some(text);
        self.answers.clear();
        self.kept = None;
    }

    /// Takes the last message back, if it has no answer.
    pub fn take_back(&mut self) {
        if self.answers.is_empty() {
            self.message = None;
        }
    }

    /// Whether there is a message to answer.
    pub fn is_asked(&self) -> bool {
        self.message.is_some()
    }

    /// The number of answers to the last message.
    pub fn answers(&self) -> usize {
        self.answers.len()
    }

    /// Adds an answer to the last message.
    pub fn add(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    /// Roles and texts up to the last message.
    fn messages(&self) -> Vec<(&'static str, &str)> {
        let mut all: Vec<(&str, &str)> = self.system.iter().map(|text| ("system", text.as_str())).collect();
        for (message, answer) in &self.before {
            all.extend([("user", message.as_str()), ("assistant", answer.as_str())]);
        }
        all.extend(self.message.iter().map(|text| ("user", text.as_str())));
        all
    }

    /// The tokens that an answer continues.
    ///
    /// # Errors
    /// If the template refuses the messages.
    pub fn encoded(&self, tokenizer: &ChatTokenizer) -> Result<Vec<u32>> {
        if !self.has_template {
            return tokenizer.encode(self.message.as_deref().unwrap_or_default(), true);
        }
        let messages: Vec<Message> =
            self.messages().into_iter().map(|(role, text)| Message::new(role, text)).collect();
        tokenizer.encode(&tokenizer.render(&messages, true)?, false)
    }

    /// Appends a pair to a file; the conversation goes on with the chosen answer. Returns what was preferred, in words.
    ///
    /// # Errors
    /// If there are no two different answers, one of them is not finished and `/save` does not ask for such ones, or the file
    /// cannot be written.
    pub fn save(&mut self, path: &Path, asked: Save) -> Result<String> {
        let (chosen, rejected) = self.chosen((asked.chosen, asked.rejected)).map_err(Error::Config)?;
        let (better, worse) = (&self.answers[chosen].text, &self.answers[rejected].text);
        if better.trim().is_empty() || worse.trim().is_empty() || better.trim() == worse.trim() {
            return Err(Error::Config(format!(
                "answers {} and {} are equal or empty, so they do not make a pair; /retry writes another one",
                chosen + 1,
                rejected + 1
            )));
        }
        let unfinished = |at: usize| Some((at + 1, self.answers[at].ending.unfinished()?));
        let unfinished = [chosen, rejected].into_iter().find_map(unfinished);
        if let (Some((number, why)), false) = (unfinished, asked.unfinished) {
            return Err(Error::Config(format!(
                "answer {number} {why}, and a model that learns from the pair learns that answers end like this; /retry writes \
                 another one, and /save! saves the pair all the same"
            )));
        }
        append(path, &self.pair(better, worse))?;
        self.kept = Some(chosen);
        Ok(format!("answer {} is preferred to answer {}", chosen + 1, rejected + 1))
    }

    fn pair(&self, chosen: &str, rejected: &str) -> Value {
        if !self.has_template {
            return json!({"prompt": self.message, "chosen": chosen, "rejected": rejected});
        }
        let message = |(role, text): (&str, &str)| json!({"role": role, "content": text});
        let prompt: Vec<Value> = self.messages().into_iter().map(message).collect();
        let answer = |text: &str| json!([message(("assistant", text))]);
        json!({"prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)})
    }

    /// The indices of both answers. Unnamed, the last answer is preferred to the one before it.
    fn chosen(&self, (chosen, rejected): (Option<Named>, Option<Named>)) -> Result<(usize, usize), String> {
        let count = self.answers.len();
        if count < 2 {
            return Err(
                "a pair needs two answers to one message; write /retry, or /adapter both and ask again"
                    .into(),
            );
        }
        let index = |named: Named| match named {
            Named::Number(number) if number <= count => Ok(number - 1),
            Named::Number(number) => Err(format!("there is no answer {number}; there are {count}")),
            Named::Side(side) => self
                .answers
                .iter()
                .rposition(|answer| answer.side == side)
                .ok_or_else(|| format!("no answer was written with the adapter {}", side.name())),
        };
        let chosen = chosen.map_or(Ok(count - 1), index)?;
        let rejected = match rejected {
            Some(named) => index(named)?,
            // The other one of the last two.
            None if chosen == count - 1 => count - 2,
            None => count - 1,
        };
        if chosen == rejected {
            return Err(format!("answer {} cannot be preferred to itself", chosen + 1));
        }
        Ok((chosen, rejected))
    }
}

/// Appends a line in one write. A last line that has no end gets one.
fn append(path: &Path, record: &Value) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut line = format!("{record}\n");
        if file.metadata()?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                line.insert(0, '\n');
            }
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()
    };
    write().map_err(Error::write(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(side: Mode, text: &str) -> Answer {
        Answer { side, text: text.into(), ending: Ending::Finished }
    }

    #[test]
    fn a_pair_holds_the_conversation_before_it_and_decides_how_it_goes_on() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pairs.jsonl");
        std::fs::write(&path, "{\"kept\": 1}").unwrap();
        let mut talk = Conversation::new(Some("brief".into()), true);
        talk.ask("one".into());
        assert!(talk.save(&path, Save::default()).is_err());
        talk.add(answer(Mode::Off, "base"));
        talk.add(answer(Mode::On, " policy"));
        assert_eq!(
            talk.save(&path, Save { chosen: Some(Named::Side(Mode::Off)), ..Save::default() }).unwrap(),
            "answer 1 is preferred to answer 2"
        );
        talk.ask("two".into());
        assert_eq!(
            talk.messages(),
            [("system", "brief"), ("user", "one"), ("assistant", "base"), ("user", "two")]
        );
        for text in ["a", "b", "a"] {
            talk.add(answer(Mode::On, text));
        }
        let named = |chosen, rejected| {
            let (chosen, rejected) = (Some(Named::Number(chosen)), Some(Named::Number(rejected)));
            Save { chosen, rejected, unfinished: true }
        };
        let of_base = Save { chosen: Some(Named::Side(Mode::Off)), ..Save::default() };
        for choice in [named(1, 3), named(2, 2), named(4, 1), of_base] {
            assert!(talk.save(&path, choice).is_err(), "{choice:?}");
        }
        talk.save(&path, Save::default()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[1]["prompt"][1], json!({"role": "user", "content": "one"}));
        assert_eq!(lines[1]["chosen"], json!([{"role": "assistant", "content": "base"}]));
        assert_eq!(lines[1]["rejected"][0]["content"], " policy", "as it stands in the conversation");
        assert_eq!((lines[2]["chosen"][0]["content"].as_str(), lines.len()), (Some("a"), 3));
        assert_eq!(lines[2]["prompt"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn an_answer_that_is_not_finished_is_saved_only_on_request() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pairs.jsonl");
        for (ending, words) in [
            (Ending::Limit, "answer 2 was cut at --max-new-tokens"),
            (Ending::Positions, "answer 2 was cut at the last position"),
            (Ending::Stopped, "answer 2 was stopped"),
        ] {
            let mut talk = Conversation::new(None, true);
            talk.ask("one".into());
            talk.add(answer(Mode::On, "whole"));
            talk.add(Answer { ending, ..answer(Mode::On, "in the mid") });
            for chosen in [1, 2] {
                let asked = Save { chosen: Some(Named::Number(chosen)), ..Save::default() };
                let error = talk.save(&path, asked).unwrap_err().to_string();
                assert!(error.contains(words) && error.contains("/save!"), "{error}");
                assert!(!path.exists());
            }
            talk.save(&path, Save { unfinished: true, ..Save::default() }).unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn without_a_template_pairs_are_strings() {
        let mut talk = Conversation::new(None, false);
        assert!(talk.set_system(Some("x".into())).is_err());
        talk.ask("The film".into());
        talk.add(answer(Mode::Off, " bores"));
        talk.add(answer(Mode::On, " shines"));
        let pair = talk.pair(" shines", " bores");
        assert_eq!(pair, json!({"prompt": "The film", "chosen": " shines", "rejected": " bores"}));
    }
}
