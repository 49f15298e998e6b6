//! The program as a user runs it: what it writes, what it prints, how it ends.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

#[path = "cli/composed.rs"]
mod composed;
#[path = "cli/contracts.rs"]
mod contracts;
#[path = "cli/data.rs"]
mod data;
#[path = "cli/data_cases.rs"]
mod data_cases;
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
