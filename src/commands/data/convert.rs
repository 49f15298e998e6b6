//! `dpo-lora data convert`.

use std::io::{self, Write};

use crate::cli::ConvertArgs;
use crate::data::source::Input;
use crate::data::{Sources, canonical, records};
use crate::error::{Error, Problems, Result};
use crate::files;
use crate::toolkit::records::inputs;

pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    let inputs = inputs(&Sources(args.files.clone()))?;
    check_output(args, &inputs)?;
    let (mut problems, mut count) = (Problems::default(), 0_usize);
    let written = files::write_atomically(&args.output, |out| {
        for record in records::read(&inputs) {
            match record.and_then(|record| canonical::row(&record)) {
                Ok(row) => writeln!(out, "{row}")?,
                Err(error) => problems.add(error.to_string()),
            }
            count += 1;
        }
        // A file with fewer records than there were would not be noticed.
        if problems.is_empty() && count > 0 { Ok(()) } else { Err(io::Error::other("invalid records")) }
    });
    if let Err(Error::Config(message)) = std::mem::take(&mut problems).finish() {
        return Err(Error::Data(message));
    }
    if count == 0 {
        return Err(Error::Data(format!("no records in {} input(s): every file is empty", inputs.len())));
    }
    written?;
    log::info!("{count} records are in {}", args.output.display());
    Ok(())
}

/// The output is JSON Lines, and none of the inputs.
fn check_output(args: &ConvertArgs, inputs: &[Input]) -> Result<()> {
    let output = &args.output;
    let is_lines = output.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
    if !is_lines {
        return Err(Error::Config(format!("--output {}: name a .jsonl file", output.display())));
    }
    let there = output.canonicalize().ok();
    let is_output = |input: &Input| match input {
        Input::File(path, ..) => there.is_some() && path.canonicalize().ok() == there,
        Input::Text { .. } => false,
    };
    if inputs.iter().any(is_output) {
        return Err(Error::Config(format!(
            "--output {} is one of the inputs; name another file",
            output.display()
        )));
    }
    Ok(())
}
