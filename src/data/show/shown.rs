//! A record or an example in pieces.

use crate::data::content::Content;
use crate::data::example::{Example, Kind};
use crate::data::messages::Message;
use crate::data::records::Record;
use crate::data::tokenizer::ChatTokenizer;
use crate::error::Result;

/// A piece of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The ids of its tokens; empty without a tokenizer.
    pub ids: Vec<u32>,
    pub text: String,
    pub is_scored: bool,
    pub is_special: bool,
}

/// A prompt or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Its name and length.
    pub title: String,
    pub spans: Vec<Span>,
    /// Tokens that are left out before the span of this index.
    pub gap: Option<(usize, usize)>,
}

/// A record or an example, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its origin and kind.
    pub(super) title: String,
    pub(super) sections: Vec<Section>,
}

impl Shown {
    /// The tokens of an example; at most `most` of each of its parts.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn tokens(tokenizer: &ChatTokenizer, example: &Example, most: Option<usize>) -> Result<Self> {
        let part = |title: String, ids: &[u32], scored: usize| -> Result<Section> {
            let first_scored = ids.len() - scored;
            let (head, tail) = ends(ids.len(), most);
            let (mut spans, mut gap) = (Vec::new(), None);
            for (from, to) in [(0, head), (tail, ids.len())] {
                let border = first_scored.clamp(from, to);
                for (ids, is_scored) in [(&ids[from..border], false), (&ids[border..to], true)] {
                    let pieces = tokenizer.pieces(ids)?;
                    spans.extend(pieces.into_iter().map(|piece| Span {
                        ids: piece.ids,
                        text: piece.text,
                        is_scored,
                        is_special: piece.is_special,
                    }));
                }
                gap = gap.or((tail > head).then_some((spans.len(), tail - head)));
            }
            Ok(Section { title, spans, gap })
        };
        let mut sections = Vec::new();
        let len = example.prompt.len();
        sections.push(part(format!("prompt, {}", counted(len)), &example.prompt, 0)?);
        for (index, ids) in example.completions.iter().enumerate() {
            let (name, scored) = (example.kind.field(index), example.scored(index).min(ids.len()));
            let title = format!("{name}, {}, {scored} of them scored", counted(ids.len()));
            sections.push(part(title, ids, scored)?);
        }
        Ok(Self {
            title: format!("{} ({})", example.origin, kind(example.kind, example.completions.len())),
            sections,
        })
    }

    /// The text of a record that no tokenizer has seen: its answers are what will be scored.
    pub fn record(record: &Record) -> Self {
        let span = |text: String, is_scored| Span { ids: Vec::new(), text, is_scored, is_special: false };
        let section = |title: String, spans| Section { title, spans, gap: None };
        let (prompt, answers): (Vec<Span>, Vec<Vec<Span>>) = match &record.content {
            Content::Text { prompt, answers } => (
                vec![span(prompt.clone(), false)],
                answers.iter().map(|answer| vec![span(answer.clone(), true)]).collect(),
            ),
            Content::Chat { prompt, answers, .. } => {
                let turns = |messages: &[Message], scored: bool| -> Vec<Span> {
                    let turn = |message: &Message| {
                        [
                            span(format!("{}: ", message.role()), false),
                            span(said(message), scored),
                            span("\n".into(), false),
                        ]
                    };
                    messages.iter().flat_map(turn).collect()
                };
                (turns(prompt, false), answers.iter().map(|answer| turns(answer, true)).collect())
            }
        };
        let mut sections = vec![section("prompt".into(), prompt)];
        for (index, spans) in answers.into_iter().enumerate() {
            sections.push(section(record.kind.field(index), spans));
        }
        Self {
            title: format!(
                "{} ({}, {})",
                record.origin,
                kind(record.kind, record.content.answers()),
                record.schema.name()
            ),
            sections,
        }
    }

    /// Adds a remark to the title.
    #[must_use]
    pub fn remarked(mut self, remark: &str) -> Self {
        self.title = format!("{}: {remark}", self.title);
        self
    }
}

/// The ends of a sequence that are shown: tokens before the first number, and from the second.
fn ends(len: usize, most: Option<usize>) -> (usize, usize) {
    match most {
        Some(most) if len > most => (most.div_ceil(2), len - most / 2),
        _ => (len, len),
    }
}

/// A number of tokens in words.
pub(super) fn counted(tokens: usize) -> String {
    format!("{tokens} token{}", if tokens == 1 { "" } else { "s" })
}

/// The kind of a record with this number of answers, in words.
fn kind(kind: Kind, answers: usize) -> String {
    let pair = if answers > 2 { "triple" } else { "pair" };
    match kind {
        Kind::Pair { label, .. } if label < 1.0 => format!("{pair}, label {label}"),
        Kind::Pair { .. } => pair.into(),
        Kind::Ranked => "ranked list".into(),
        Kind::Judged { desirable: true } => "judged answer, desirable".into(),
        Kind::Judged { desirable: false } => "judged answer, undesirable".into(),
        Kind::Text => "text".into(),
        Kind::Mismatched => "mismatched answer".into(),
        Kind::Prompt => "prompt".into(),
    }
}

/// What a message says: its content, or all its fields but the role where there is more.
fn said(message: &Message) -> String {
    let others = || message.fields().iter().filter(|(name, _)| *name != "role");
    match message.fields().get("content") {
        Some(serde_json::Value::String(text)) if others().count() == 1 => text.clone(),
        _ => {
            let fields: serde_json::Map<_, _> =
                others().map(|(name, value)| (name.clone(), value.clone())).collect();
            serde_json::Value::Object(fields).to_string()
        }
    }
}
