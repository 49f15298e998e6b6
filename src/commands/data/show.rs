//! `dpo-lora data show`.

use super::super::output::print;
use super::opened::{base, configure, tokenizer};
use crate::cli::ShowArgs;
use crate::data::show::{Form, Shown, html};
use crate::data::truncate::Outcome;
use crate::data::{ChatTokenizer, Record, Truncation, Wanted, tokenize};
use crate::error::{Error, Result};
use crate::files;
use crate::report::screen;
use crate::toolkit::stream::Stream;

pub(super) fn run(args: &ShowArgs) -> Result<()> {
    let config = configure(&args.data)?;
    let base = base(&config)?;
    let tokenizer = base.as_ref().map(|base| tokenizer(&config, base)).transpose()?;
    let stream = Stream::open(&config.data, &config.data.train, Wanted::Whole)?;
    let mut records = stream.records().skip(args.start - 1).take(args.number).peekable();
    if records.peek().is_none() {
        return Err(Error::Data(format!(
            "there is no record {} in {}: choose a smaller --start",
            args.start, config.data.train
        )));
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
