//! Standard output and standard error, and which files and directories a command may write.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::adapter::{mlx, peft, read};
use crate::cli::ModelArgs;
use crate::error::{Error, Result};
use crate::files::{self, Guard};
use crate::report::screen;
use crate::toolkit::Base;

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

/// What a command reads that is given the arguments of a model.
pub(super) fn inputs_of(model: &ModelArgs) -> Guard {
    let mut inputs = model_inputs(&model.base, &model.adapter);
    model.config.iter().for_each(|config| inputs.add("the configuration", config));
    model.chat_template.iter().for_each(|template| inputs.add("the chat template", Path::new(template)));
    inputs
}

/// A base and adapters as inputs.
pub(super) fn model_inputs(base: &str, adapters: &[PathBuf]) -> Guard {
    let mut inputs = Guard::default();
    inputs.add("the base", Path::new(base));
    for adapter in adapters {
        // What is missing is told when it is read.
        let place = read::located(adapter).unwrap_or_else(|_| adapter.clone());
        inputs.add("the adapter", &place);
    }
    inputs
}

/// Refuses to replace a directory, unless it is asked for and holds an adapter and nothing else. An empty one is no loss.
///
/// # Errors
/// [`Error::Config`] with what it is, and the remedy.
pub(super) fn check_adapter_directory(output: &Path, flag: &str, force: bool) -> Result<()> {
    let mut entries = std::fs::read_dir(output).into_iter().flatten();
    if entries.next().is_none() {
        return Ok(());
    }
    check_forced(output, flag, force)?;
    if !output.join(peft::CONFIG).is_file() {
        return Err(Error::Config(format!(
            "the output {} holds no {}, so it is not an adapter to overwrite; name another directory",
            output.display(),
            peft::CONFIG
        )));
    }
    let own = [peft::CONFIG, peft::WEIGHTS, mlx::WEIGHTS];
    files::check_parts(output, "the adapter that is written", &|path| {
        own.iter().chain(Base::TOKENIZER_FILES).any(|part| path == Path::new(part))
    })
}

/// Refuses to replace a file, unless it is asked for and is a GGUF file of the same kind: an adapter, or a model.
///
/// # Errors
/// [`Error::Config`] with what it is, and the remedy.
pub(super) fn check_gguf(output: &Path, force: bool, is_adapter: bool) -> Result<()> {
    if output.exists() {
        check_forced(output, "--output", force)?;
    }
    let what = if is_adapter { "a GGUF adapter" } else { "a GGUF model" };
    files::check_earlier(output, what, |head| {
        head.starts_with(b"GGUF") && read::is_adapter(output) == is_adapter
    })
}

/// Refuses to replace what is there without `--force`.
///
/// # Errors
/// [`Error::Config`] with the remedy.
pub(super) fn check_forced(output: &Path, flag: &str, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    Err(Error::Config(format!(
        "the output {} already exists; name another {flag}, or use --force to replace it",
        output.display()
    )))
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
    fn only_adapters_are_replaced_and_only_when_asked() {
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("adapter");
        let check = |force| {
            let checked = check_adapter_directory(&output, "--output", force);
            checked.map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert_eq!(check(false), "");
        std::fs::create_dir(&output).unwrap();
        assert_eq!(check(false), "");
        std::fs::write(output.join(peft::WEIGHTS), "x").unwrap();
        assert!(check(false).contains("already exists; name another --output, or use --force"));
        assert!(check(true).contains("holds no adapter_config.json"));
        std::fs::write(output.join(peft::CONFIG), "{}").unwrap();
        assert_eq!(check(true), "");
        std::fs::write(output.join("notes.txt"), "x").unwrap();
        assert!(check(true).contains("no part of the adapter that is written: notes.txt"), "{}", check(true));
    }

    #[test]
    fn only_gguf_files_are_replaced_by_such() {
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("m.gguf");
        check_gguf(&output, false, false).unwrap();
        std::fs::write(&output, "not one").unwrap();
        for (force, words) in [(false, "--force"), (true, "is not a GGUF model")] {
            let error = check_gguf(&output, force, false).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(words), "{error}");
        }
        std::fs::write(&output, "GGUF, which is damaged").unwrap();
        check_gguf(&output, true, false).unwrap();
        assert!(check_gguf(&output, true, true).is_err());
    }
}
