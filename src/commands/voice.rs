//! Prints the library's notices to standard error.

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::output::say;
use crate::report;

/// Prints what this crate logs; what its dependencies log is theirs.
struct Voice;

impl Log for Voice {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("dpo_lora")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match record.level() {
            Level::Error => say(&format!("error: {}", record.args())),
            Level::Warn => say(&format!("warning: {}", record.args())),
            Level::Info | Level::Debug | Level::Trace => say(&record.args().to_string()),
        }
    }

    fn flush(&self) {}
}

/// From now on prints nothing: another rank says it.
pub(super) fn hush() {
    log::set_max_level(LevelFilter::Off);
    report::hide_activities();
}

/// From now on prints notices: only warnings if `quiet`, and more of them with each level of `verbose`.
pub(super) fn install(quiet: bool, verbose: u8) {
    log::set_max_level(match (quiet, verbose) {
        (true, _) => LevelFilter::Warn,
        (_, 0) => LevelFilter::Info,
        (_, 1) => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    });
    if !quiet {
        report::show_activities();
    }
    // A program that uses the library may have a logger of its own.
    let _ = log::set_logger(&Voice);
}
