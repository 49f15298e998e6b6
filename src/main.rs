//! The command line program: run, print the error chain, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dpo_lora::cli::Cli;

/// Large buffers come and go with every operation; glibc would map and fault them in anew each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`; the binding does not name it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // The default gives freed pages back after 10 ms, and every operation faults its buffers in again: a third of a
    // step's time on short batches.
    // SAFETY: an option is set before any other thread runs.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    match dpo_lora::commands::run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                // Causes that a message already quotes are not said twice.
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text.push_str(&format!("\n  because {cause_text}"));
                }
                source = cause.source();
            }
            // Standard error may be closed; the exit code still tells.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
            ExitCode::from(error.exit_code())
        }
    }
}
