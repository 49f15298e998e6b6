//! The program as users run it: its output, its messages and its exit codes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

#[path = "cli/composed.rs"]
mod composed;
#[path = "cli/contracts.rs"]
mod contracts;
#[path = "cli/data.rs"]
mod data;
#[path = "cli/data_reports.rs"]
mod data_reports;
#[path = "cli/diverged.rs"]
mod diverged;
#[path = "cli/gguf.rs"]
mod gguf;
#[path = "cli/interrupted.rs"]
mod interrupted;
#[path = "cli/merged.rs"]
mod merged;
#[path = "cli/objectives.rs"]
mod objectives;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/watched.rs"]
mod watched;
