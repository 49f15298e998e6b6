//! The program as users run it: its output, its messages and its exit codes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

#[path = "cli/bases.rs"]
mod bases;
#[path = "cli/chatting.rs"]
mod chatting;
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
#[path = "cli/flags.rs"]
mod flags;
#[path = "cli/followed.rs"]
mod followed;
#[path = "cli/gguf.rs"]
mod gguf;
#[path = "cli/goals.rs"]
mod goals;
#[path = "cli/hints.rs"]
mod hints;
#[path = "cli/interrupted.rs"]
mod interrupted;
#[path = "cli/merged.rs"]
mod merged;
#[path = "cli/modified.rs"]
mod modified;
#[path = "cli/objectives.rs"]
mod objectives;
#[path = "cli/on_policy.rs"]
mod on_policy;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/prepared.rs"]
mod prepared;
#[path = "cli/published.rs"]
mod published;
#[path = "cli/ranks.rs"]
mod ranks;
#[path = "cli/reported.rs"]
mod reported;
#[path = "cli/resumed.rs"]
mod resumed;
#[path = "cli/reward.rs"]
mod reward;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/samples.rs"]
mod samples;
#[path = "cli/shared.rs"]
mod shared;
#[path = "cli/staged.rs"]
mod staged;
#[path = "cli/stopped.rs"]
mod stopped;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/watched.rs"]
mod watched;
