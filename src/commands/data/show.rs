//! `dpo-lora data show`.

use std::path::Path;

use super::super::output::print;
use super::opened::{base, configure, inputs, tokenizer};
use crate::cli::ShowArgs;
use crate::config::RunConfig;
use crate::data::show::{Form, Shown, html};
use crate::data::truncate::Outcome;
use crate::data::{ChatTokenizer, DataConfig, Record, Truncation, Wanted, tokenize};
use crate::error::{Error, Result};
use crate::files;
use crate::report::screen;
use crate::toolkit::stream::Stream;

pub(super) fn run(args: &ShowArgs) -> Result<()> {
    let config = configure(&args.data)?;
    let base = base(&config)?;
    let tokenizer = base.as_ref().map(|base| tokenizer(&config, base)).transpose()?;
    let stream = Stream::open(&config.data, &config.data.train, Wanted::Whole)?;
    args.html.as_deref().map_or(Ok(()), |page| check_page(page, args, &config, &stream))?;
    let mut records = stream.records();
    let before = records.by_ref().take(args.start - 1).count();
    let mut records = records.take(args.number).peekable();
    if records.peek().is_none() {
        return Err(nothing_at(args.start, before, &config.data));
    }
    let form = if screen::shows_colours(&std::io::stdout()) { Form::Terminal } else { Form::Plain };
    let (mut page, mut wrong) = (Vec::new(), Vec::new());
    for record in records {
        let shown = record.and_then(|record| match &tokenizer {
            Some(tokenizer) => tokens(tokenizer, &record, &config.data.truncation()),
            None => Ok(Shown::record(&record)),
        });
        match shown {
            Ok(shown) if args.html.is_some() => page.push(shown),
            Ok(shown) => print(format!("{}\n", shown.text(form)).as_bytes())?,
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if let Some(path) = &args.html {
        files::write_bytes(path, html::page(&page).as_bytes())?;
        log::info!("{} records are in {}", page.len(), path.display());
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Data(wrong.join("\n"))) }
}

/// Refuses a page that is read, and a file that is no such page.
fn check_page(page: &Path, args: &ShowArgs, config: &RunConfig, stream: &Stream) -> Result<()> {
    let mut inputs = inputs(stream, args.data.config.as_deref());
    inputs.add("the base", Path::new(&config.model.base));
    config
        .data
        .chat_template
        .iter()
        .for_each(|template| inputs.add("the chat template", Path::new(template)));
    inputs.check_file(page)?;
    files::check_earlier(page, "a page of records", |head| {
        String::from_utf8_lossy(head).contains("<title>Records</title>")
    })
}

/// The error for data with only `records` records, too few for one with the number `start`.
fn nothing_at(start: usize, records: usize, data: &DataConfig) -> Error {
    let is_filtered = data.filter.is_some() || data.train.0.iter().any(|source| source.filter().is_some());
    let kept = if is_filtered { " that data.filter keeps" } else { "" };
    Error::Data(match records {
        0 => format!("there are no records{kept} in {}", data.train),
        _ => format!("{} has no record {start}{kept}, only {records}: choose a smaller --start", data.train),
    })
}

/// The tokens of a record as a run takes them.
fn tokens(tokenizer: &ChatTokenizer, record: &Record, truncation: &Truncation) -> Result<Shown> {
    let mut example = tokenize(tokenizer, record)?.example;
    let outcome = truncation.apply(&mut example, tokenizer.bos_id());
    let shown = Shown::tokens(tokenizer, &example, None)?;
    Ok(match outcome {
        Outcome::Whole => shown,
        Outcome::Truncated => shown.remarked("truncated"),
        Outcome::Dropped(why) => shown.remarked(&format!("left out: {why}")),
    })
}
