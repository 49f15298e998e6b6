//! Every failure of the library. Each variant carries the value at fault and what to do about it.

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure of the library. [`Error::exit_code`] maps it to the binary's exit status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid flag, YAML key or combination of settings; the message names key, value and remedy.
    #[error("{0}")]
    Config(String),
    /// Keys of a configuration that do not exist; the message also names what else is wrong with it.
    #[error("{message}")]
    UnknownKey {
        /// The keys as they were written, with their section.
        keys: Vec<String>,
        /// File, line, the nearest known key, and every other problem.
        message: String,
    },
    /// A file or directory that could not be read or written.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// The attempt: `cannot read`, `cannot write`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// An invalid record of a data file.
    #[error("{file}:{line}: {message}")]
    Record {
        /// The data file, as the user named it.
        file: String,
        /// 1-based line (or row) number.
        line: usize,
        /// Field, value and remedy.
        message: String,
    },
    /// Data that are wrong as a whole: an empty file, no pair left after truncation, a template that fails.
    #[error("{0}")]
    Data(String),
    /// A checkpoint that is damaged or does not fit its configuration.
    #[error("{0}")]
    Weights(String),
    /// A model that cannot be built from its configuration.
    #[error("{0}")]
    Model(String),
    /// An adapter that is damaged, does not fit its base, or needs a feature that is not supported.
    #[error("{0}")]
    Adapter(String),
    /// An adapter of another base.
    #[error("{message}")]
    WrongBase {
        /// The adapter.
        adapter: PathBuf,
        /// The base it was trained on, as the adapter states.
        trained_on: String,
        /// The base it was used with.
        base: String,
        /// Both names and the remedy.
        message: String,
    },
    /// A repository of the Hugging Face Hub, or its copy in the cache, that is not available.
    #[error("{0}")]
    Hub(String),
    /// A judge that does not answer, or whose limit is reached.
    #[error("{0}")]
    Judge(String),
    /// A device that failed or is out of memory.
    #[error("{0}")]
    Device(String),
    /// Training that cannot continue.
    #[error("{0}")]
    Train(String),
    /// A rank that died, hangs or differs from the others; the message names it.
    #[error("{0}")]
    Ranks(String),
    /// Training whose adapter became unusable: a number that is not finite.
    #[error("{message}")]
    Diverged {
        /// The step after which it became unusable.
        step: u64,
        /// The last checkpoint that can be used.
        last_good: Option<PathBuf>,
        /// What is wrong, and the remedy.
        message: String,
    },
    /// Stopped by a signal, after a checkpoint was written.
    #[error("{kept}; continue with: dpo-lora train --resume {run}")]
    Interrupted {
        /// The exit code: 130 or 143.
        code: u8,
        /// Where the run was interrupted, and what is kept.
        kept: String,
        /// The directory of the run, quoted for a shell.
        run: String,
    },
}

impl Error {
    /// An [`Error::Io`] of reading `path`.
    pub fn read(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action: "cannot read", path, source }
    }

    /// An [`Error::Io`] of writing `path`.
    pub fn write(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action: "cannot write", path, source }
    }

    /// The process's exit status: 2 for usage, configuration and missing files, 130/143 when interrupted, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::UnknownKey { .. } => 2,
            // A file that the user names and that is missing.
            Self::Io { action: "cannot read", source, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                2
            }
            Self::Interrupted { code, .. } => *code,
            _ => 1,
        }
    }
}

/// Collects every problem of a configuration, so that a user sees them all at once.
#[derive(Debug, Default)]
pub struct Problems {
    messages: Vec<String>,
    unknown_keys: Vec<String>,
}

/// Number of problems that are printed; an adapter of another base has hundreds.
const MOST_TOLD: usize = 24;

impl Problems {
    /// Adds `message` (key, value, remedy) unless `holds`.
    pub fn require(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.messages.push(message());
        }
    }

    /// Adds `message`.
    pub fn add(&mut self, message: impl Into<String>) {
        self.messages.push(message.into());
    }

    /// Adds a key that does not exist, and `message`.
    pub fn unknown_key(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.unknown_keys.push(key.into());
        self.add(message);
    }

    /// Adds the error of `result`, if there is one.
    pub fn absorb(&mut self, result: Result<()>) {
        match result {
            Ok(()) => {}
            Err(Error::UnknownKey { keys, message }) => {
                self.unknown_keys.extend(keys);
                self.add(message);
            }
            Err(error) => self.add(error.to_string()),
        }
    }

    /// Whether there are no problems.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// # Errors
    /// [`Error::Config`] with one line for each problem, or [`Error::UnknownKey`] if a key does not exist; at most the
    /// first `MOST_TOLD`.
    pub fn finish(mut self) -> Result<()> {
        let more = self.messages.len().saturating_sub(MOST_TOLD);
        if more > 0 {
            self.messages.truncate(MOST_TOLD);
            self.messages.push(format!("... and {more} more"));
        }
        let message = self.messages.join("\n");
        match (self.messages.is_empty(), self.unknown_keys.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => Err(Error::Config(message)),
            (false, false) => Err(Error::UnknownKey { keys: self.unknown_keys, message }),
        }
    }
}

/// Returns the word of `known` that is nearest to `word`, if it is near enough to be a typing error.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_ignores_strangers() {
        assert_eq!(nearest("learning_rte", ["learning_rate", "beta"]), Some("learning_rate"));
        assert_eq!(nearest("zzz", ["learning_rate", "beta"]), None);
    }

    #[test]
    fn problems_are_told_together() {
        let mut problems = Problems::default();
        problems.require(true, || "never".into());
        problems.require(false, || "beta is 0".into());
        problems.absorb(Err(Error::Config("r is 0".into())));
        assert_eq!(problems.finish().unwrap_err().to_string(), "beta is 0\nr is 0");
        assert!(Problems::default().finish().is_ok());
        let mut many = Problems::default();
        (0..100).for_each(|i| many.add(format!("problem {i}")));
        let text = many.finish().unwrap_err().to_string();
        assert!(text.starts_with("problem 0\n") && text.ends_with("problem 23\n... and 76 more"), "{text}");
    }

    #[test]
    fn unknown_keys_are_a_variant_and_the_other_problems_stay() {
        let mut problems = Problems::default();
        problems.add("beta is 0");
        problems.unknown_key("train.lr", "train.lr is no key");
        let error = problems.finish().unwrap_err();
        assert!(matches!(&error, Error::UnknownKey { keys, .. } if keys == &["train.lr"]), "{error:?}");
        assert_eq!((error.to_string().as_str(), error.exit_code()), ("beta is 0\ntrain.lr is no key", 2));
        let mut outer = Problems::default();
        outer.absorb(Err(error));
        assert!(matches!(outer.finish(), Err(Error::UnknownKey { .. })));
    }

    #[test]
    fn config_errors_exit_2() {
        assert_eq!(Error::Config(String::new()).exit_code(), 2);
        assert_eq!(Error::Data(String::new()).exit_code(), 1);
        assert_eq!(
            Error::Interrupted { code: 143, kept: String::new(), run: String::new() }.exit_code(),
            143
        );
    }
}
