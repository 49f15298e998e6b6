//! Standard output and standard error.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::report::screen;

/// Whether another process prints what this one would.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// From now on nothing is printed here: rank 0 does it.
pub(super) fn hush() {
    HUSHED.store(true, Ordering::Relaxed);
}

fn is_hushed() -> bool {
    HUSHED.load(Ordering::Relaxed)
}

/// Writes to standard output. A closed pipe (`| head`) is not an error.
pub(super) fn print(bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    };
    if is_hushed() {
        return Ok(());
    }
    let is_terminal = std::io::stdout().is_terminal();
    match if is_terminal { screen::without_bars(write) } else { write() } {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::write("standard output")(e)),
        _ => Ok(()),
    }
}

/// Refuses a directory as the place of a file, before the work.
pub(super) fn check_file(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    Err(Error::Config(format!("the output {} is a directory; name a file", path.display())))
}

/// Prints a value as one line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|e| Error::Data(e.to_string()))?;
    line.push(b'\n');
    print(&line)
}

/// Prints a text for people to standard output; on a terminal, as lines of whole words that fit it.
pub(super) fn print_text(text: &str) -> Result<()> {
    let fitted = std::io::stdout().is_terminal().then(|| screen::fitted_to_output(text));
    print(fitted.as_deref().unwrap_or(text).as_bytes())
}

/// Prints a text to standard error with its own line breaks alone.
pub(super) fn say_as_it_is(text: &str) {
    // As in `say`.
    let _ = screen::unbroken(text);
}

/// Prints a message for people.
pub(super) fn say(text: &str) {
    if is_hushed() {
        return;
    }
    // Standard error may be closed; there is nowhere left to report that.
    let _ = screen::line(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_place_for_a_file() {
        let place = tempfile::tempdir().unwrap();
        let error = check_file(place.path()).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains("is a directory; name a file"),
            "{error}"
        );
        check_file(&place.path().join("scores.jsonl")).unwrap();
        check_file(Path::new("/dev/null")).unwrap();
    }
}
