//! One file a subcommand; wiring only.

mod adapted;
mod cache;
mod chat;
mod collect;
mod compared;
mod completions;
mod data;
mod devices;
mod eval;
mod export;
mod generate;
mod init;
mod inspect;
mod lr_find;
mod merge;
mod output;
mod push;
mod report;
mod samples;
mod score;
mod serve;
mod signals;
mod together;
mod train;
mod voice;

use clap::CommandFactory;

use self::output::print;
use crate::cli::{Cli, Command, DataCommand};
use crate::error::{Error, Result};
use crate::ops::gemm::Isa;
use crate::report::Verbosity;

/// Runs the command that the command line asks for.
///
/// # Errors
/// Any failure of the command.
pub fn run(cli: &Cli) -> Result<()> {
    voice::install(cli.quiet, cli.verbose);
    signals::watch(left_behind(&cli.command))?;
    Isa::asked()?;
    log::debug!("dpo-lora {}, instruction set {}", env!("CARGO_PKG_VERSION"), Isa::detected().name());
    match &cli.command {
        Command::Init(args) => init::run(args),
        Command::Train(args) => train::run(args, verbosity(cli)),
        Command::LrFind(args) => lr_find::run(args),
        Command::Push(args) => push::run(args),
        Command::Score(args) => score::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Collect(args) => collect::run(args),
        Command::Merge(args) => merge::run(args, cli.quiet),
        Command::Export(args) => export::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Report(args) => report::run(args),
        Command::Data(command) => data::run(command),
        Command::Devices(args) => devices::run(args),
        Command::Cache(args) => cache::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man => manual(),
    }
}

/// What a command that is interrupted says: files appear whole or not at all.
fn left_behind(command: &Command) -> &'static str {
    match command {
        Command::Init(_)
        | Command::Merge(_)
        | Command::Export(_)
        | Command::Data(DataCommand::Convert(_)) => "interrupted; what was not finished is removed",
        Command::Eval(args) if args.command.is_some() => {
            "interrupted; what was drawn, judged and measured is kept, and the same command goes on"
        }
        Command::Collect(_) => "interrupted; every vote is kept, and the same command goes on",
        Command::Score(args) if args.output.is_some() => "interrupted; nothing was written",
        Command::Train(_) => "interrupted before the run began; nothing was written",
        _ => "interrupted",
    }
}

fn verbosity(cli: &Cli) -> Verbosity {
    match (cli.quiet, cli.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, 0) => Verbosity::Normal,
        _ => Verbosity::Verbose,
    }
}

fn manual() -> Result<()> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(Error::write("standard output"))?;
    print(&text)
}
