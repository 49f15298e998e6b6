//! `dpo-lora data`: what data are, before they are trained on.

mod check;
mod convert;
mod opened;
mod report;
mod show;
mod text;

use crate::cli::DataCommand;
use crate::error::Result;

pub(super) fn run(command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Check(args) => check::run(args),
        DataCommand::Show(args) => show::run(args),
        DataCommand::Convert(args) => convert::run(args),
    }
}
