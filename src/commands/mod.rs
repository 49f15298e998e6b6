//! One file a subcommand; wiring only.

mod adapted;
mod devices;
mod eval;
mod export;
mod generate;
mod inspect;
mod merge;
mod samples;
mod score;
mod signals;
mod train;
mod voice;

use std::io::Write;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::error::{Error, Result};
use crate::ops::gemm::Isa;

/// Does what the command line asks for.
///
/// # Errors
/// Whatever keeps it from being done.
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

/// Writes to standard output. A reader that has gone (`| head`) is no error.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::write("standard output")(e)),
        _ => Ok(()),
    }
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|e| Error::Data(e.to_string()))?;
    line.push(b'\n');
    print(&line)
}

/// Says something to a person.
fn say(text: &str) {
    // Standard error may be closed; there is nowhere left to say so.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
