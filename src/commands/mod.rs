//! One file a subcommand; wiring only.

mod adapted;
mod data;
mod devices;
mod eval;
mod export;
mod generate;
mod inspect;
mod merge;
mod output;
mod samples;
mod score;
mod signals;
mod train;
mod voice;

use clap::CommandFactory;

use self::output::print;
use crate::cli::{Cli, Command};
use crate::error::{Error, Result};
use crate::ops::gemm::Isa;

/// Runs the command that the command line asks for.
///
/// # Errors
/// Any failure of the command.
pub fn run(cli: &Cli) -> Result<()> {
    voice::install(cli.quiet, cli.verbose);
    Isa::asked()?;
    match &cli.command {
        Command::Train(args) => train::run(args, cli.quiet),
        Command::Score(args) => score::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Merge(args) => merge::run(args, cli.quiet),
        Command::Export(args) => export::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Data(command) => data::run(command),
        Command::Devices(args) => devices::run(args),
        Command::Completions(args) => completions(args.shell),
        Command::Man => manual(),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dpo-lora", &mut text);
    print(&text)
}

fn manual() -> Result<()> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(Error::write("standard output"))?;
    print(&text)
}
