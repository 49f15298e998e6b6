//! Template errors and the limits on the resources of one rendering.

use std::cell::Cell;
use std::fmt;

/// The reason why a template could not be parsed or rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The description of the error.
    pub message: String,
    /// The 1-based line in the template; 0 if unknown.
    pub line: usize,
}

/// The result of parsing or rendering.
pub type Res<T> = Result<T, Problem>;

impl Problem {
    /// Creates a problem whose line is added later.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: 0 }
    }

    /// Returns the problem at `line`, unless it already has a line.
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

/// Returns an error with `message`.
pub(super) fn fail<T>(message: impl Into<String>) -> Res<T> {
    Err(Problem::new(message))
}

/// Maximum number of steps in one rendering, about a second. A long conversation takes a thousandth of that.
const MOST_STEPS: u64 = 20_000_000;
/// Maximum number of bytes that a rendering's values may hold at once, in addition to the conversation itself.
const MOST_BYTES: usize = 256 << 20;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static BOUND: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Starts counting for a rendering; memory held before is not attributed to it.
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

/// Checks that `bytes` more fit within the memory limit, and counts one step per quarter of a kilobyte.
pub(super) fn room(bytes: usize) -> Res<()> {
    if LIVE.get().saturating_add(bytes) > BOUND.get() {
        return fail(format!("its values take more than {} MiB", MOST_BYTES >> 20));
    }
    STEPS.set(STEPS.get().saturating_add((bytes >> 8) as u64));
    Ok(())
}

/// A heap value whose bytes are counted as long as it lives.
#[derive(Debug)]
pub(super) struct Counted<T> {
    /// The counted value.
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

/// Text that is written piece by piece, up to a limit.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub text: String,
}

/// Maximum number of bytes of a rendered conversation, or of one value as text: about 16 million tokens.
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
