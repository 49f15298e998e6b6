//! What is known of an example without its tokens, and how its tokens are stored.

use bytemuck::{Pod, Zeroable};

use super::super::example::{Example, Kind, Origin};
use super::text;

/// One example of a [`Dataset`](super::Dataset): its id, its place and its sizes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// [`Example::id`].
    pub id: [u8; 32],
    /// The first of its words: the length of each completion, all tokens, then the text of a prompt.
    offset: u64,
    /// The 1-based line or row of its file.
    pub line: u64,
    /// Its number among the records that were read, from 0.
    pub record: u64,
    /// The index of its source in the configuration.
    pub source: u32,
    /// The index of its file.
    pub file: u32,
    kind: u32,
    /// The label, or the margin of a pair that has one.
    label: f32,
    prompt: u32,
    completions: u32,
    packed: u32,
    unpacked: u32,
    scored: u32,
    longest: u32,
}

impl Entry {
    pub(super) fn new(example: &Example, offset: u64, (source, file, record): (usize, usize, usize)) -> Self {
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            id: example.id(),
            offset,
            line: example.origin.line as u64,
            record: record as u64,
            source: size(source),
            file: size(file),
            kind: code(example.kind),
            label: match example.kind.margin() {
                0.0 => example.kind.label(),
                margin => margin,
            },
            prompt: size(example.prompt.len()),
            completions: size(example.completions.len()),
            packed: size(example.packed()),
            unpacked: size(example.unpacked()),
            scored: size(example.all_scored()),
            longest: size(example.longest()),
        }
    }

    /// Returns the kind of the record.
    pub fn kind(&self) -> Kind {
        match self.kind {
            0 => Kind::pair(self.label),
            1 => Kind::Ranked,
            2 => Kind::Judged { desirable: true },
            3 => Kind::Judged { desirable: false },
            4 => Kind::Text,
            7 => Kind::Prompt,
            6 => Kind::Pair { label: 1.0, margin: self.label },
            _ => Kind::Mismatched,
        }
    }

    /// Returns the number of completions.
    pub fn completions(&self) -> usize {
        self.completions as usize
    }

    /// Returns the number of tokens of the prompt.
    pub fn prompt(&self) -> usize {
        self.prompt as usize
    }

    /// Returns [`Example::packed`].
    pub fn packed(&self) -> usize {
        self.packed as usize
    }

    /// Returns [`Example::unpacked`].
    pub fn unpacked(&self) -> usize {
        self.unpacked as usize
    }

    /// Returns the number of scored tokens of all completions.
    pub fn scored(&self) -> usize {
        self.scored as usize
    }

    /// Returns [`Example::longest`].
    pub fn longest(&self) -> usize {
        self.longest as usize
    }

    /// Adds what distinguishes the example from others to a hash.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let kind = self.kind();
        hasher.update(&self.id).update(&kind.label().to_le_bytes());
        if !matches!(kind, Kind::Pair { margin: 0.0, .. }) {
            hasher.update(format!("{kind:?}").as_bytes());
        }
    }

    /// Returns the example from the words of all examples; `None` if they end before it does.
    pub(super) fn example(&self, words: &[u32], origin: Origin) -> Option<Example> {
        let start = usize::try_from(self.offset).ok()?;
        let (lengths, tokens) = words.get(start..)?.split_at_checked(self.completions as usize)?;
        let (prompt, mut rest) = tokens.split_at_checked(self.prompt as usize)?;
        let mut completions = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (completion, after) = rest.split_at_checked(*length as usize)?;
            completions.push(completion.to_vec());
            rest = after;
        }
        Some(Example { prompt: prompt.to_vec(), completions, kind: self.kind(), origin })
    }

    /// Returns the tokens of the prompt; `None` if the words end before it does.
    pub(super) fn prompt_tokens<'a>(&self, words: &'a [u32]) -> Option<&'a [u32]> {
        let start = usize::try_from(self.offset).ok()?.checked_add(self.completions as usize)?;
        words.get(start..)?.get(..self.prompt as usize)
    }

    /// Returns the text that was kept beside a prompt, if there is one; `None` if the words end before it does or it is damaged.
    pub(super) fn text(&self, words: &[u32]) -> Option<Option<String>> {
        if self.kind() != Kind::Prompt {
            return Some(None);
        }
        let start = usize::try_from(self.offset).ok()?;
        let (lengths, rest) = words.get(start..)?.split_at_checked(self.completions as usize)?;
        let tokens = lengths.iter().fold(self.prompt as usize, |sum, n| sum.saturating_add(*n as usize));
        text::read(rest.get(tokens..)?)
    }
}

/// Appends the words of an example: the length of each completion, then all tokens, then the text of a prompt.
pub(super) fn append(words: &mut Vec<u32>, example: &Example, text: Option<&str>) {
    words.extend(example.completions.iter().map(|tokens| u32::try_from(tokens.len()).unwrap_or(u32::MAX)));
    words.extend(&example.prompt);
    words.extend(example.completions.iter().flatten());
    if example.kind == Kind::Prompt {
        text::append(words, text);
    }
}

fn code(kind: Kind) -> u32 {
    match kind {
        Kind::Pair { margin: 0.0, .. } => 0,
        Kind::Pair { .. } => 6,
        Kind::Ranked => 1,
        Kind::Judged { desirable: true } => 2,
        Kind::Judged { desirable: false } => 3,
        Kind::Text => 4,
        Kind::Mismatched => 5,
        Kind::Prompt => 7,
    }
}
