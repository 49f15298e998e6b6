//! `dpo-lora init`: a commented configuration that trains, from a look at base, data and machine.

mod records;
mod settings;
mod text;
mod timing;

use std::path::Path;

use self::records::{read, with_remedy};
use self::text::{Facts, text};
use super::output::{model_inputs, print, say};
use crate::cli::InitArgs;
use crate::config::RunConfig;
use crate::data::{Dataset, EvalSource, Kind, Sources};
use crate::error::{Error, Result};
use crate::files::{self, shell_word};
use crate::model::config::{DeviceChoice, WeightDtype};
use crate::objective::ObjectiveConfig;
use crate::toolkit::{Base, Inputs, OpenOptions, Run};
use crate::train::run_dir;

/// The share of the records that is held out, and how many records that takes.
const HELD_OUT: f64 = 0.1;
const ENOUGH_TO_HOLD_OUT: usize = 30;

/// The most records to hold out: more make every evaluation longer and its interval hardly smaller.
const MOST_HELD_OUT: f64 = 500.0;

/// Keys one of which begins a line of every configuration.
const SECTIONS: [&str; 8] =
    ["output_dir", "model", "lora", "data", "objective", "rollout", "train", "stages"];

pub(super) fn run(args: &InitArgs) -> Result<()> {
    check_output(args)?;
    let (dtype, device) = (WeightDtype::Auto, DeviceChoice::Auto);
    let base =
        Base::open_with(&args.base, &OpenOptions { dtype, device, load_in_4bit: None, force: args.force })?;
    let config = begun(args, &base).map_err(|error| with_remedy(error, args))?;
    let inputs = Inputs::read(config, &base, false).map_err(|error| with_remedy(error, args))?;
    let Inputs { config, tokenizer, examples } = inputs;
    let notes = examples.notes.clone();
    let has_template = tokenizer.template().is_some();
    // Before the run itself is planned: a device holds one of them at a time.
    let speed = if args.no_timing { None } else { timing::tokens_per_second(&config, &base) };
    let run = Run::of(Inputs { config: config.clone(), tokenizer, examples }, &base)?;
    let facts = Facts {
        expected: run.expected()?,
        course: run.course()?,
        base: &base,
        has_template,
        notes,
        speed,
        file: &args.output,
    };
    let written = text(&config, &args.base, &facts)?;
    check(&written, &config, &args.output)?;
    files::write_bytes(&args.output, written.as_bytes())?;
    facts.said().iter().for_each(|line| say(line));
    print(format!("{}\n", args.output.display()).as_bytes())?;
    say(&format!("next:\n  dpo-lora train -c {}", shell_word(&args.output)));
    Ok(())
}

/// Refuses a file that is read, and what is there already, unless it is asked for and is a configuration.
fn check_output(args: &InitArgs) -> Result<()> {
    let (output, mut inputs) = (&args.output, model_inputs(&args.base, &[]));
    args.data.iter().chain(&args.eval_data).for_each(|source| inputs.add_data(source));
    inputs.check_file(output)?;
    if output.exists() && !args.force {
        return Err(Error::Config(format!(
            "{} exists; choose another --output, or replace it with --force",
            output.display()
        )));
    }
    let is_of_run = output.exists() && run_dir::is_run(files::parent(output));
    if output.ends_with("config.yaml") && is_of_run {
        return Err(Error::Config(format!(
            "the output {} is the configuration that a run keeps to be resumed; name another file",
            output.display()
        )));
    }
    files::check_earlier(output, "a configuration of a run", |head| {
        let head = String::from_utf8_lossy(head);
        let key = |line: &str| line.split_once(':').is_some_and(|(key, _)| SECTIONS.contains(&key));
        head.lines().any(key)
    })
}

/// The settings that the records and the base suggest.
fn begun(args: &InitArgs, base: &Base) -> Result<RunConfig> {
    let mut config = RunConfig::new(args.base.clone(), args.data.iter().cloned().collect::<Sources>());
    config.output_dir = run_dir::numbered(&Path::new("runs").join(name_of(&args.output)));
    // The default may be more than the model reads.
    let positions = base.spec.max_positions;
    config.data.max_length = config.data.max_length.map(|most| most.min(positions));
    let train = read(&mut config, base)?;
    config.objective = loss_for(&train)?;
    let records = train.len();
    config.data.eval = match &args.eval_data {
        Some(source) => Some(EvalSource::Sources(Sources::from(source.as_str()))),
        None if records >= ENOUGH_TO_HOLD_OUT => Some(EvalSource::Fraction(held_out(records))),
        None => None,
    };
    let trained = match &config.data.eval {
        Some(EvalSource::Fraction(share)) => {
            records - ((records as f64 * share).round() as usize).clamp(1, records - 1)
        }
        Some(EvalSource::Sources(_)) | None => records,
    };
    settings::suit(&mut config, trained)?;
    config.train.logging_steps = (config.train.steps(trained) / 50).clamp(1, 10);
    Ok(config)
}

/// The name of the run: that of the file without its extension.
fn name_of(output: &Path) -> String {
    let stem = output.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if stem.is_empty() || stem == "run" { "dpo".into() } else { stem }
}

/// The share to hold out, with two digits.
fn held_out(records: usize) -> f64 {
    let share = HELD_OUT.min(MOST_HELD_OUT / records as f64);
    let digits = 10f64.powf(1.0 - share.log10().floor());
    (share * digits).round() / digits
}

/// The loss that takes records of this kind.
fn loss_for(records: &Dataset) -> Result<ObjectiveConfig> {
    let kinds = |wanted: fn(Kind) -> bool| records.entries().any(|entry| wanted(entry.kind()));
    let is_pair = |kind| matches!(kind, Kind::Pair { .. });
    let found = [
        ("sigmoid", kinds(is_pair)),
        ("kto", kinds(|kind| matches!(kind, Kind::Judged { .. }))),
        ("plackett_luce", kinds(|kind| matches!(kind, Kind::Ranked))),
        ("sft", kinds(|kind| matches!(kind, Kind::Text))),
    ];
    let names: Vec<&str> = found.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    let [name] = names[..] else {
        return Err(Error::Data(format!(
            "the records are of several kinds, for the losses {}; a run takes one of them: split the files",
            names.join(", ")
        )));
    };
    let mut config = ObjectiveConfig::default();
    config.loss_type = vec![name.into()];
    Ok(ObjectiveConfig::from(&config.resolve()?))
}

/// Checks that what is written is the configuration that was planned.
fn check(written: &str, config: &RunConfig, output: &Path) -> Result<()> {
    let mut read = RunConfig::from_yaml(written, &output.display().to_string(), &[])?;
    read.model.base.clone_from(&config.model.base);
    read.data.chat_template_date.clone_from(&config.data.chat_template_date);
    if read == *config {
        return Ok(());
    }
    Err(Error::Config(format!("{} would not hold what was planned; please report this", output.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_two_digits_and_hold_out_500_at_most() {
        assert_eq!((held_out(30), held_out(5000), held_out(64_000)), (0.1, 0.1, 0.0078));
        assert_eq!(name_of(Path::new("a/run.yaml")), "dpo");
        assert_eq!(name_of(Path::new("a/polite.v2.yaml")), "polite.v2");
    }
}
