//! The progress of downloads, for a display.

/// Receives the progress of downloads. Every method has an empty default.
pub trait Progress {
    /// A file of `size` bytes (if known) starts; `have` bytes of it are already there. A file that has to start over
    /// starts again.
    fn begin(&self, _file: &str, _size: Option<u64>, _have: u64) {}
    /// `bytes` more were received.
    fn advance(&self, _bytes: u64) {}
    /// The file is complete.
    fn end(&self) {}
    /// Something the user should know: a wait, a retry, a fallback.
    fn note(&self, _message: &str) {}
}

/// Prints nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
