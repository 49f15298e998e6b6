//! What is measured of one record.

use super::hash::Hashes;
use super::special::{Finder, Within};
use crate::data::doubt::Doubt;
use crate::data::messages::Message;
use crate::data::truncate::Outcome;
use crate::data::{
    ChatTokenizer, Content, Example, Kind, Origin, Record, Tokenized, Truncation, check_vocab, tokenize,
};
use crate::error::Result;

/// What a model can take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The number of its embeddings.
    pub vocab_size: usize,
    /// The number of its positions.
    pub max_positions: usize,
}

/// How records are measured.
pub struct Measure<'a> {
    /// With it lengths are tokens, without it characters.
    tokenizer: Option<&'a ChatTokenizer>,
    /// Special tokens of the tokenizer.
    pub(super) finder: Option<Finder>,
    pub(super) truncation: Truncation,
    limits: Option<Limits>,
}

/// What is measured of a record.
pub(super) struct Measured {
    pub origin: Origin,
    pub kind: Kind,
    pub is_chat: bool,
    pub hashes: Hashes,
    /// Tokens or characters of the prompt, before truncation.
    pub prompt: u32,
    /// The same of each answer.
    pub answers: Vec<u32>,
    /// After truncation; of records that are left out, zeros.
    pub size: Size,
    /// Tokens that truncation cut.
    pub lost: usize,
    /// Whether it was cut or left out.
    pub outcome: Outcome,
    /// Tokens of the longest sequence, if the model has fewer positions.
    pub too_long: Option<usize>,
    pub specials: Vec<(Within, usize)>,
    /// Text of the rendered prompt that the rendered conversation lacks.
    pub unwritten: Option<String>,
    pub doubts: Vec<Doubt>,
}

/// The tokens that a record takes in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows of a packed batch: the prompt once.
    pub packed: u32,
    /// Tokens of prompt + completion, over all completions.
    pub unpacked: u32,
    /// Scored tokens.
    pub scored: u32,
}

impl Size {
    fn of(example: &Example) -> Self {
        Self {
            packed: short(example.packed()),
            unpacked: short(example.unpacked()),
            scored: short(example.all_scored()),
        }
    }
}

/// A length in four bytes.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl<'a> Measure<'a> {
    /// Counts characters.
    pub fn characters() -> Self {
        Self { tokenizer: None, finder: None, truncation: Truncation::default(), limits: None }
    }

    /// Counts tokens as training would take them. Records that do not fit `limits` are refused or counted.
    ///
    /// # Errors
    /// If the special tokens of the tokenizer cannot be searched for.
    pub fn tokens(tokenizer: &'a ChatTokenizer, truncation: Truncation, limits: Limits) -> Result<Self> {
        let finder = Some(Finder::new(tokenizer)?);
        Ok(Self { tokenizer: Some(tokenizer), finder, truncation, limits: Some(limits) })
    }

    /// Whether lengths are tokens.
    pub(super) fn counts_tokens(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// # Errors
    /// If the record cannot be tokenized for the model.
    pub(super) fn of(&self, record: &Record) -> Result<Measured> {
        let (prompt, answers) = characters(&record.content);
        let mut measured = Measured {
            origin: record.origin.clone(),
            kind: record.kind,
            is_chat: matches!(record.content, Content::Chat { .. }),
            hashes: Hashes::of(record),
            prompt,
            answers,
            size: Size::default(),
            lost: 0,
            outcome: Outcome::Whole,
            too_long: None,
            specials: self.finder.as_ref().map(|finder| finder.find(record)).unwrap_or_default(),
            unwritten: None,
            doubts: record.doubts.clone(),
        };
        if let Some(tokenizer) = self.tokenizer {
            self.tokenized(tokenizer, record, &mut measured)?;
        }
        Ok(measured)
    }

    fn tokenized(&self, tokenizer: &ChatTokenizer, record: &Record, measured: &mut Measured) -> Result<()> {
        let Tokenized { mut example, lost, doubts } = tokenize(tokenizer, record)?;
        measured.unwritten = lost;
        measured.doubts.extend(doubts);
        if let Some(limits) = self.limits {
            check_vocab(tokenizer, &example, limits.vocab_size)?;
        }
        measured.prompt = short(example.prompt.len());
        measured.answers = example.completions.iter().map(|tokens| short(tokens.len())).collect();
        let whole = tokens(&example);
        measured.outcome = self.truncation.apply(&mut example, tokenizer.bos_id());
        if matches!(measured.outcome, Outcome::Dropped(_)) {
            measured.lost = whole;
            return Ok(());
        }
        measured.lost = whole - tokens(&example);
        measured.size = Size::of(&example);
        let longest = example.longest();
        measured.too_long =
            self.limits.and_then(|limits| (longest > limits.max_positions).then_some(longest));
        Ok(())
    }
}

/// The tokens of an example, its prompt once.
fn tokens(example: &Example) -> usize {
    example.prompt.len() + example.completions.iter().map(Vec::len).sum::<usize>()
}

/// The characters of the prompt and of each answer; of messages, those of their content.
fn characters(content: &Content) -> (u32, Vec<u32>) {
    match content {
        Content::Text { prompt, answers } => {
            let count = |text: &String| short(text.chars().count());
            (count(prompt), answers.iter().map(count).collect())
        }
        Content::Chat { prompt, answers, .. } => {
            let count = |turns: &Vec<Message>| short(turns.iter().map(spoken).sum());
            (count(prompt), answers.iter().map(count).collect())
        }
    }
}

/// The characters of a message's content, in all its parts.
fn spoken(message: &Message) -> usize {
    match message.fields().get("content") {
        Some(serde_json::Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.map(|text| text.chars().count()).sum()
        }
        _ => message.content().chars().count(),
    }
}
