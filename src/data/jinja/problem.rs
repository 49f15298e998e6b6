//! What goes wrong in a template, and the bounds on what one rendering may take.

use std::cell::Cell;
use std::fmt;

/// Why a template could not be read or rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What happened.
    pub message: String,
    /// The template's line, from 1; 0: not known.
    pub line: usize,
}

/// A result of reading or rendering.
pub type Res<T> = Result<T, Problem>;

impl Problem {
    /// One whose line is added on the way out.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: 0 }
    }

    /// The same, at `line` unless a line is known.
    pub fn at(self, line: usize) -> Self {
        Self { line: if self.line == 0 { line } else { self.line }, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "{} (line {line} of the template)", self.message),
        }
    }
}

/// An error with `message`.
pub(super) fn fail<T>(message: impl Into<String>) -> Res<T> {
    Err(Problem::new(message))
}

/// Steps of one rendering, about a second: a long conversation takes a thousandth of them.
const MOST_STEPS: u64 = 20_000_000;
/// Bytes that a rendering's values may hold at once, beyond what the conversation itself has.
const MOST_BYTES: usize = 256 << 20;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static BOUND: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Starts to count for a rendering; what is held now is not its own.
pub(super) fn start() {
    STEPS.set(0);
    BOUND.set(LIVE.get().saturating_add(MOST_BYTES));
}

/// Counts `steps`.
pub(super) fn spend(steps: usize) -> Res<()> {
    let all = STEPS.get().saturating_add(steps as u64);
    STEPS.set(all);
    if all > MOST_STEPS {
        return fail("it takes too many steps; does it ever end?");
    }
    room(0)
}

/// Refuses to hold `bytes` more if that is beyond the bound; a step for each quarter of a kilobyte.
pub(super) fn room(bytes: usize) -> Res<()> {
    if LIVE.get().saturating_add(bytes) > BOUND.get() {
        return fail(format!("its values take more than {} MiB", MOST_BYTES >> 20));
    }
    STEPS.set(STEPS.get().saturating_add((bytes >> 8) as u64));
    Ok(())
}

/// Something on the heap whose bytes are counted as long as it lives.
#[derive(Debug)]
pub(super) struct Counted<T> {
    /// What is counted.
    pub inner: T,
    bytes: usize,
}

impl<T> Counted<T> {
    pub fn new(inner: T, bytes: usize) -> Self {
        LIVE.set(LIVE.get().saturating_add(bytes));
        Self { inner, bytes }
    }
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        LIVE.set(LIVE.get().saturating_sub(self.bytes));
    }
}

/// Text that is written piece by piece, up to a bound.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub text: String,
}

/// Bytes of a rendered conversation, or of one value as text: some 16 million tokens.
pub(super) const MOST_TEXT: usize = 64 << 20;

impl Out {
    pub fn push(&mut self, text: &str) -> Res<()> {
        if text.len() > MOST_TEXT.saturating_sub(self.text.len()) {
            return fail(format!("it writes more than {} MiB", MOST_TEXT >> 20));
        }
        self.text.push_str(text);
        Ok(())
    }
}
