//! Special tokens that stand in the text of a record. The tokenizer makes control tokens of them: `<|im_end|>` in a
//! message ends the turn, and what follows can pretend to be another one.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value as Json;

use crate::data::{ChatTokenizer, Content, Message, Record};
use crate::error::{Error, Result};

/// Where in a record a special token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Within {
    /// In a message, which the chat template surrounds with control tokens.
    Message,
    /// In a plain string, which may have been rendered by a template on purpose.
    Text,
}

/// Finds special tokens in texts.
pub struct Finder {
    automaton: AhoCorasick,
    /// By number.
    tokens: Vec<String>,
    bos: Option<String>,
    eos: Option<String>,
}

impl Finder {
    /// For the special tokens of `tokenizer`.
    ///
    /// # Errors
    /// If there are too many of them.
    pub fn new(tokenizer: &ChatTokenizer) -> Result<Self> {
        let mut tokens: Vec<String> = tokenizer.special_tokens().into_values().collect();
        tokens.retain(|token| !token.is_empty());
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&tokens)
            .map_err(|e| Error::Data(format!("the special tokens of the tokenizer: {e}")))?;
        let named = |name| tokenizer.special_token(name).map(String::from);
        Ok(Self { automaton, tokens, bos: named("bos_token"), eos: named("eos_token") })
    }

    /// The text of a token.
    pub fn token(&self, number: usize) -> &str {
        self.tokens.get(number).map_or("", |token| token)
    }

    /// Returns the tokens in a record, each once. A beginning-of-text token before a plain prompt and an end-of-text
    /// token behind a plain answer are allowed: tokenization would add them.
    pub fn find(&self, record: &Record) -> Vec<(Within, usize)> {
        let mut found = Vec::new();
        match &record.content {
            Content::Text { prompt, answers } => {
                let bare = self.bos.as_deref().and_then(|bos| prompt.strip_prefix(bos)).unwrap_or(prompt);
                self.add(Within::Text, bare, &mut found);
                for answer in answers {
                    let bare = self.eos.as_deref().and_then(|eos| answer.strip_suffix(eos)).unwrap_or(answer);
                    self.add(Within::Text, bare, &mut found);
                }
            }
            Content::Chat { prompt, answers, .. } => {
                for message in prompt.iter().chain(answers.iter().flatten()) {
                    self.message(message, &mut found);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Every field counts: templates also print names, reasoning and tool calls.
    fn message(&self, message: &Message, found: &mut Vec<(Within, usize)>) {
        message.fields().values().for_each(|value| self.json(value, found));
    }

    fn json(&self, value: &Json, found: &mut Vec<(Within, usize)>) {
        match value {
            Json::String(text) => self.add(Within::Message, text, found),
            Json::Array(list) => list.iter().for_each(|item| self.json(item, found)),
            Json::Object(map) => map.values().for_each(|item| self.json(item, found)),
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }

    fn add(&self, within: Within, text: &str, found: &mut Vec<(Within, usize)>) {
        found.extend(self.automaton.find_iter(text).map(|token| (within, token.pattern().as_usize())));
    }
}
