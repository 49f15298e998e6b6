//! `dpo-lora data check`.

use super::super::output::{print, print_json};
use super::opened::{base, configure, tokenizer};
use super::report::Report;
use super::text;
use crate::cli::DataCheckArgs;
use crate::config::RunConfig;
use crate::data::check::{Collected, Figures, Limits, Measure, Size, TokensOfData, collect};
use crate::data::{EvalSource, Sources, Wanted};
use crate::error::{Error, Result};
use crate::toolkit::stream::Stream;
use crate::toolkit::{Base, expected_memory};

pub(super) fn run(args: &DataCheckArgs) -> Result<()> {
    let mut config = configure(&args.data)?;
    if let Some(eval) = &args.eval {
        config.data.eval = Some(EvalSource::Sources(eval.as_str().into()));
        config.data.validate()?;
    }
    let mut report = report(&config)?;
    if args.data.config.is_some() {
        report.warnings.extend(unused_gold(&config, &report.train)?);
    }
    if args.json {
        print_json(&report)?;
    } else {
        print(text::report(&report).as_bytes())?;
    }
    match report.errors.as_slice() {
        [] => Ok(()),
        errors => Err(Error::Data(format!("the data have errors: {}", errors.join("; ")))),
    }
}

fn report(config: &RunConfig) -> Result<Report> {
    let base = base(config)?;
    let tokenizer = base.as_ref().map(|base| tokenizer(config, base)).transpose()?;
    let measure = match (&base, &tokenizer) {
        (Some(base), Some(tokenizer)) => {
            let limits = Limits { vocab_size: base.spec.vocab_size, max_positions: base.spec.max_positions };
            Measure::tokens(tokenizer, config.data.truncation(), limits)?
        }
        _ => Measure::characters(),
    };
    let read = |sources: &Sources, most: Option<usize>| -> Result<Collected> {
        let stream = Stream::open(&config.data, sources, Wanted::Whole)?;
        Ok(collect(stream.records().take(most.unwrap_or(usize::MAX)), &measure))
    };
    let found = read(&config.data.train, config.data.limit)?;
    let (mut sizes, mut leaks, mut eval) = (found.sizes().to_vec(), None, None);
    match &config.data.eval {
        None => {}
        Some(EvalSource::Sources(sources)) => {
            let other = read(sources, None)?;
            leaks = Some(found.leaks_into(&other));
            eval = Some(other.figures());
        }
        Some(EvalSource::Fraction(fraction)) => {
            let (train, between) = found.held_out(*fraction, config.seed)?;
            (sizes, leaks) = (train, Some(between));
        }
    }
    let train = found.figures();
    let peak_memory = base.as_ref().map(|base| peak(config, base, &sizes)).transpose()?;
    let errors = text::errors(&train, eval.as_ref());
    let warnings = text::warnings(&train, leaks.as_ref());
    let tokens = base.is_some().then(|| TokensOfData::of(&sizes));
    Ok(Report { train, eval, leaks, tokens, peak_memory, errors, warnings })
}

/// Describes gold answers that the loss of the configuration does not imitate.
fn unused_gold(config: &RunConfig, found: &Figures) -> Result<Option<String>> {
    let is_triple = |(kind, count): (&String, &usize)| kind.starts_with("triple").then_some(*count);
    let triples: usize = found.kinds.iter().filter_map(is_triple).sum();
    let takes_them = Wanted::of(config.objective.resolve()?.needs()) == Wanted::Triples;
    Ok((triples > 0 && !takes_them).then(|| {
        format!(
            "in {triples} of {} records there is a gold answer and nothing imitates it; take a loss that does \
             (objective.loss_type: tpo), or leave the column out (data.columns: {{reference: null}})",
            found.records
        )
    }))
}

fn peak(config: &RunConfig, base: &Base, sizes: &[Size]) -> Result<usize> {
    let kept = sizes.iter().filter(|size| size.packed > 0);
    let sizes = kept.map(|s| (s.packed as usize, s.unpacked as usize, s.scored as usize));
    Ok(expected_memory(config, base, sizes)?.total())
}
