//! Standard error as a screen: lines scroll, progress bars stay below them.
//!
//! Everything that is printed for people goes through here, so that no line tears a bar. Without a terminal there are no
//! bars.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

pub use super::wrap::width;
use super::wrap::wrapped;

/// Columns where the terminal does not say.
const COLUMNS: usize = 80;

static BARS: LazyLock<MultiProgress> = LazyLock::new(|| MultiProgress::with_draw_target(target()));

/// Bars on the screen.
static SHOWN: AtomicUsize = AtomicUsize::new(0);

/// Prints a line above the bars; on a terminal, as lines of whole words that fit it.
///
/// # Errors
/// If standard error is closed or its disk is full.
pub fn line(text: &str) -> std::io::Result<()> {
    if is_terminal() { unbroken(&fitted(text)) } else { unbroken(text) }
}

/// A text in lines of whole words that fit the terminal of standard error.
pub fn fitted(text: &str) -> String {
    // A character in the last column may move the cursor on.
    wrapped(text, columns() - 1)
}

/// As [`fitted()`], for the terminal of standard output.
pub fn fitted_to_output(text: &str) -> String {
    wrapped(text, at_least(terminal_size::terminal_size_of(std::io::stdout())) - 1)
}

/// As [`line()`], without other line breaks than those of the text.
///
/// # Errors
/// As [`line()`].
pub fn unbroken(text: &str) -> std::io::Result<()> {
    let write = || {
        let mut out = std::io::stderr().lock();
        writeln!(out, "{text}").and_then(|()| out.flush())
    };
    without_bars(write)
}

/// Writes to the terminal while no bar is drawn.
pub fn without_bars<T>(write: impl FnOnce() -> T) -> T {
    // Without a bar the terminal is left alone.
    if SHOWN.load(Ordering::Relaxed) == 0 { write() } else { BARS.suspend(write) }
}

/// As [`line()`], on a line of its own after what the terminal echoed of a key (`^C`). A bar that is drawn again wipes the
/// echo out.
///
/// # Errors
/// As [`line()`].
pub fn line_after_key(text: &str) -> std::io::Result<()> {
    let echoed = is_terminal() && SHOWN.load(Ordering::Relaxed) == 0;
    line(&format!("{}{text}", if echoed { "\n" } else { "" }))
}

/// Whether standard error is a terminal.
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether standard error shows colours.
pub fn is_coloured() -> bool {
    shows_colours(&std::io::stderr())
}

/// Whether a stream is a terminal that shows colours. `NO_COLOR` turns them off (<https://no-color.org>).
pub fn shows_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns of the terminal.
pub fn columns() -> usize {
    at_least(terminal_size::terminal_size_of(std::io::stderr()))
}

fn at_least(size: Option<(terminal_size::Width, terminal_size::Height)>) -> usize {
    size.map_or(COLUMNS, |(width, _)| usize::from(width.0)).max(20)
}

/// Rows of the terminal.
pub fn rows() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(0, |(_, height)| usize::from(height.0))
}

/// Redraws a second, at most.
const RATE: u8 = 20;

fn target() -> ProgressDrawTarget {
    if is_terminal() {
        ProgressDrawTarget::term_like_with_hz(Box::new(Narrow::default()), RATE)
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// Standard error as a terminal that is a little narrower than it is: bars fill their line, and the `^C` that the terminal
/// echoes behind a full line would move to the next one and leave a torn bar.
#[derive(Debug, Default)]
struct Narrow(Mutex<Frame>);

/// What is drawn until the next flush.
#[derive(Debug, Default)]
struct Frame {
    bytes: Vec<u8>,
    /// Strings since the cursor was at the beginning: lines, and what fills each of them up, by turns.
    strings: usize,
}

/// Columns of `^C`, and one in which the cursor stays.
const ECHO: u16 = 3;

impl Narrow {
    fn add(&self, text: &str) -> std::io::Result<()> {
        // What is in the buffer is whole at any time.
        self.frame().bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn frame(&self) -> MutexGuard<'_, Frame> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the cursor by an escape sequence of ECMA-48.
    fn go(&self, n: usize, direction: char) -> std::io::Result<()> {
        if n == 0 { Ok(()) } else { self.add(&format!("\x1b[{n}{direction}")) }
    }
}

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        u16::try_from(columns()).unwrap_or(u16::MAX).saturating_sub(ECHO)
    }

    fn move_cursor_up(&self, n: usize) -> std::io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> std::io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> std::io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> std::io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.add(text)?;
        self.add("\n")
    }

    /// indicatif lets a line begin where the one before it wraps; a line that is filled up to a narrower width does not wrap.
    fn write_str(&self, text: &str) -> std::io::Result<()> {
        if text == "\r" {
            self.frame().strings = 0;
            return self.add(text);
        }
        let strings = {
            let mut frame = self.frame();
            frame.strings += 1;
            frame.strings
        };
        let follows = strings > 1 && strings % 2 == 1;
        self.add(if follows { "\r\n" } else { "" })?;
        self.add(text)
    }

    fn clear_line(&self) -> std::io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> std::io::Result<()> {
        let Frame { bytes: text, .. } = std::mem::take(&mut *self.frame());
        let mut out = std::io::stderr().lock();
        out.write_all(&text).and_then(|()| out.flush())
    }
}

/// A bar at the lower edge of the screen.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Draws a bar; `template` is indicatif's.
    pub fn new(total: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        SHOWN.fetch_add(1, Ordering::Relaxed);
        Self(BARS.add(ProgressBar::new(total).with_style(style)))
    }

    /// Draws another one above it; without a total, for a message.
    pub fn above(&self, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        SHOWN.fetch_add(1, Ordering::Relaxed);
        Self(BARS.insert_before(&self.0, ProgressBar::new(0).with_style(style)))
    }

    /// Its counters.
    pub fn counters(&self) -> &ProgressBar {
        &self.0
    }
}

impl Drop for Bar {
    /// Wipes it out.
    fn drop(&mut self) {
        self.0.finish_and_clear();
        BARS.remove(&self.0);
        SHOWN.fetch_sub(1, Ordering::Relaxed);
    }
}
