//! `dpo-lora eval`: pairs, and under subcommands what a policy writes.

mod calibration;
mod frontier;
mod learning_curve;
mod overlay;
mod plain;
mod questions;
mod results;
mod scored;
mod win_rate;

use super::together;
use crate::cli::{EvalArgs, EvalCommand};
use crate::error::{Error, Result};

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    match (&args.command, &args.pairs.0) {
        (Some(EvalCommand::WinRate(args)), _) => win_rate::run(args),
        (Some(EvalCommand::Frontier(args)), _) => frontier::run(args),
        (Some(EvalCommand::Overlay(args)), _) => overlay::run(args),
        (Some(EvalCommand::LearningCurve(args)), _) => {
            together::refuse("eval learning-curve")?;
            learning_curve::run(args)
        }
        (Some(EvalCommand::Calibration(args)), _) => calibration::run(args),
        (None, Some(args)) => plain::run(args),
        (None, None) => Err(Error::Config(
            "eval needs --base and --data, or a subcommand; see dpo-lora eval --help".into(),
        )),
    }
}
