//! `dpo-lora data convert`.

use std::io;

use super::opened::{inputs, named};
use crate::cli::ConvertArgs;
use crate::data::{Wanted, canonical};
use crate::error::{Error, Problems, Result};
use crate::files;
use crate::toolkit::stream::Stream;

/// Invalid records after which the rest is not read.
const MOST_INVALID: usize = 1000;

pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    let config = named(&args.files, args.config.as_deref())?.data;
    config.validate()?;
    let stream = Stream::open(&config, &config.train, Wanted::Everything)?;
    check_output(args, &stream)?;
    let (mut problems, mut invalid, mut count) = (Problems::default(), 0, 0_usize);
    let written = files::write_atomically(&args.output, |out| {
        for record in stream.records().take(config.limit.unwrap_or(usize::MAX)) {
            match record.and_then(|record| canonical::row(&record)) {
                Ok(row) => writeln!(out, "{row}")?,
                Err(error) => {
                    problems.add(error.to_string());
                    invalid += 1;
                }
            }
            count += 1;
            if invalid == MOST_INVALID {
                break;
            }
        }
        // A file with fewer records than there were would not be noticed.
        if invalid == 0 && count > 0 { Ok(()) } else { Err(io::Error::other("invalid records")) }
    });
    if let Err(Error::Config(message)) = problems.finish() {
        return Err(Error::Data(format!("nothing was written; invalid records:\n{message}")));
    }
    if count == 0 {
        return Err(Error::Data(format!("no records in {}: nothing was written", config.train)));
    }
    written?;
    log::info!("{count} records are in {}", args.output.display());
    Ok(())
}

/// The keys one of which the first record begins with.
const FIRST_KEYS: [&str; 6] = ["prompt", "chosen", "completions", "completion", "messages", "text"];

/// The output is JSON Lines, and neither an input nor a file of another kind.
fn check_output(args: &ConvertArgs, stream: &Stream) -> Result<()> {
    let output = &args.output;
    let is_lines = output.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
    if !is_lines {
        return Err(Error::Config(format!("--output {}: name a .jsonl file", output.display())));
    }
    inputs(stream, args.config.as_deref()).check_file(output)?;
    files::check_earlier(output, "a file of converted records", |head| {
        let head = String::from_utf8_lossy(head);
        // Written without blanks, as most data of people are not.
        let value = FIRST_KEYS.iter().find_map(|key| head.strip_prefix(&format!("{{\"{key}\":")));
        value.is_some_and(|value| !value.starts_with(' '))
    })
}
