//! `dpo-lora lr-find`: short runs at several learning rates, from the same start, compared on held-out pairs.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use serde::Serialize;

use super::output::{print, print_json, say};
use super::together;
use super::train::{configure, parts};
use crate::cli::{LrFindArgs, TrainArgs};
use crate::config::{Recipe, RunConfig};
use crate::data::EvalSource;
use crate::error::{Error, Result};
use crate::eval::preference::Evaluation;
use crate::files::TemporaryDirectory;
use crate::report::Reporter;
use crate::toolkit::{Base, Inputs, Ready, Run, set_threads};
use crate::train::run_dir::{Opening, RunDir};
use crate::train::samples::SamplePrompts;

/// Learning rates that are tried if none are named.
const RATES: [f64; 5] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3];

/// The share that is held out where the configuration holds out nothing, and the most records that are evaluated.
const HELD_OUT: f64 = 0.1;
const MOST_EVALUATED: usize = 200;

/// What a rate led to.
#[derive(Serialize)]
struct Tried {
    learning_rate: f64,
    /// Whether the adapter became unusable.
    diverged: bool,
    loss: Option<f64>,
    logp_accuracy: Option<f64>,
    reward_margin: Option<f64>,
    kl: Option<f64>,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Found<'a> {
    steps: u64,
    pairs: usize,
    tried: &'a [Tried],
    suggested: Option<f64>,
}

pub(super) fn run(args: &LrFindArgs) -> Result<()> {
    together::refuse("lr-find")?;
    let rates = rates(&args.rates)?;
    let train = as_train(args)?;
    let Recipe::Single(mut config) = configure::recipe(&train)? else {
        return Err(Error::Config(
            "lr-find compares runs without stages; name the base, data and settings of one stage".into(),
        ));
    };
    if config.objective.resolve()?.on_policy().is_some() {
        return Err(Error::Config(
            "lr-find compares losses on held-out records, and objective.loss_type learns from completions that the policy draws; \
             compare such runs by eval frontier"
                .into(),
        ));
    }
    if config.data.eval.is_none() {
        config.data.eval = Some(EvalSource::Fraction(HELD_OUT));
        say(&format!("data.eval is null; {:.0} % of the records are held out here", 100.0 * HELD_OUT));
    }
    set_threads(config.train.threads)?;
    let base = parts::open(&config, &train)?;
    let mut inputs = Inputs::read(*config, &base, false)?;
    inputs.examples.eval = inputs.examples.eval.select(0..inputs.examples.eval.len().min(MOST_EVALUATED));
    let pairs = inputs.examples.eval.len();
    say(&format!("{} runs of {} steps, each evaluated on {pairs} held-out records", rates.len(), args.steps));
    if !args.json {
        print(
            format!("{:>10} {:>10} {:>10} {:>10} {:>10}\n", "rate", "loss", "accuracy", "margin", "kl")
                .as_bytes(),
        )?;
    }
    let mut tried = Vec::new();
    for rate in rates {
        let one = attempt(&inputs, &base, rate, args.steps)?;
        if !args.json {
            print(one.row().as_bytes())?;
        }
        tried.push(one);
    }
    let suggested = suggested(&tried);
    if args.json {
        return print_json(&Found { steps: args.steps, pairs, tried: &tried, suggested });
    }
    print(advice(&tried, suggested, args.steps).as_bytes())
}

/// The learning rates to try, each once.
fn rates(asked: &[f64]) -> Result<Vec<f64>> {
    let twice = asked.iter().enumerate().find(|(at, rate)| asked[..*at].contains(*rate));
    match twice {
        Some((_, rate)) => Err(Error::Config(format!("--rates names {rate:e} twice; name each rate once"))),
        None if asked.is_empty() => Ok(RATES.to_vec()),
        None => Ok(asked.to_vec()),
    }
}

/// The arguments of the run that would be trained.
fn as_train(args: &LrFindArgs) -> Result<TrainArgs> {
    let settings = args.settings.clone();
    if settings.learning_rate.is_some() || settings.epochs.is_some() || settings.output.is_some() {
        return Err(Error::Config(
            "lr-find takes its learning rates from --rates and its length from --steps, and writes nothing; leave out \
             --learning-rate, --epochs and --output"
                .into(),
        ));
    }
    Ok(TrainArgs {
        config: args.config.clone(),
        settings,
        stray: None,
        overrides: args.overrides.clone(),
        resume: None,
        auto_resume: false,
        overwrite: false,
        force: args.force,
        serve: None,
        json: false,
        profile: false,
        dry_run: false,
    })
}

/// Trains for a few steps and evaluates; what was trained is thrown away.
fn attempt(inputs: &Inputs, base: &Base, rate: f64, steps: u64) -> Result<Tried> {
    let place = TemporaryDirectory::new(&std::env::temp_dir())?;
    let config = short(&inputs.config, rate, steps, place.path().join("run"));
    config.validate()?;
    let tokenizer = base.tokenizer(config.data.chat_template.as_deref())?;
    let tokenizer = tokenizer.on(config.data.chat_template_date.as_deref())?;
    let run = Run::new(config, base, tokenizer, inputs.examples.clone())?;
    let directory = RunDir::open(&run.config.output_dir, Opening::Fresh)?;
    let Ready { mut trainer, .. } = run.ready(&directory, Arc::new(AtomicU8::new(0)), false)?;
    match trainer.run(&mut Reporter::new()) {
        Ok(()) => Ok(Tried::of(rate, trainer.evaluate()?.as_ref())),
        Err(Error::Diverged { .. }) => Ok(Tried { diverged: true, ..Tried::of(rate, None) }),
        Err(error) => Err(error),
    }
}

/// The run at this rate: as long as asked for, and without what a run keeps or shows.
fn short(config: &RunConfig, rate: f64, steps: u64, directory: std::path::PathBuf) -> RunConfig {
    let mut config = config.clone();
    config.output_dir = directory;
    let train = &mut config.train;
    (train.learning_rate, train.max_steps) = (rate, Some(steps));
    train.warmup_steps = train.warmup_steps.min(steps / 10);
    (train.eval_steps, train.early_stopping_patience) = (None, None);
    (train.save_steps, train.save_minutes) = (None, None);
    train.load_best_model_at_end = false;
    train.sample_prompts = SamplePrompts::First(0);
    train.sample_steps = None;
    train.report_to.clear();
    config
}

impl Tried {
    fn of(rate: f64, found: Option<&Evaluation>) -> Self {
        let values = found.map(Evaluation::values).unwrap_or_default();
        let of = |name: &str| {
            let value = values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            value.filter(|value| value.is_finite())
        };
        Self {
            learning_rate: rate,
            diverged: false,
            loss: of("eval_loss"),
            logp_accuracy: of("eval_logps/accuracies"),
            reward_margin: of("eval_rewards/margins"),
            kl: of("eval_kl"),
        }
    }

    fn row(&self) -> String {
        let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.4}"));
        let accuracy =
            self.logp_accuracy.map_or_else(|| "-".into(), |share| format!("{:.1} %", 100.0 * share));
        let loss = if self.diverged { "diverged".into() } else { cell(self.loss) };
        format!(
            "{:>10} {loss:>10} {accuracy:>10} {:>10} {:>10}\n",
            format!("{:e}", self.learning_rate),
            cell(self.reward_margin),
            cell(self.kl)
        )
    }
}

/// The rate with the least held-out loss.
fn suggested(tried: &[Tried]) -> Option<f64> {
    let usable = tried.iter().filter(|one| !one.diverged && one.loss.is_some());
    let best =
        usable.min_by(|a, b| a.loss.unwrap_or(f64::INFINITY).total_cmp(&b.loss.unwrap_or(f64::INFINITY)));
    best.map(|one| one.learning_rate)
}

fn advice(tried: &[Tried], suggested: Option<f64>, steps: u64) -> String {
    let Some(rate) = suggested else {
        return "\nno rate led to an adapter that can be used; try lower ones with --rates\n".into();
    };
    let rates = tried.iter().map(|one| one.learning_rate);
    let (lowest, highest) = (rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max));
    let edge = match rate {
        rate if rate == highest => "; it is the highest that was tried: --rates may name higher ones",
        rate if rate == lowest => "; it is the lowest that was tried: --rates may name lower ones",
        _ => "",
    };
    format!(
        "\nthe least held-out loss after {steps} steps: --set train.learning_rate={rate:e}{edge}\n\
         a run of many more steps bears less: take the next lower rate where the KL is large\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(rate: f64, loss: Option<f64>) -> Tried {
        Tried { loss, diverged: loss.is_none(), ..Tried::of(rate, None) }
    }

    #[test]
    fn a_rate_is_tried_once() {
        assert_eq!(rates(&[]).unwrap(), RATES);
        assert_eq!(rates(&[1e-4, 1e-5]).unwrap(), [1e-4, 1e-5]);
        let error = rates(&[1e-4, 3e-4, 0.0001]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--rates names 1e-4 twice"), "{error}");
    }

    #[test]
    fn the_least_loss_is_suggested_and_edges_are_told() {
        let all =
            [tried(1e-5, Some(0.69)), tried(1e-4, Some(0.5)), tried(1e-3, Some(0.6)), tried(1e-2, None)];
        assert_eq!(suggested(&all), Some(1e-4));
        assert!(!advice(&all, Some(1e-4), 20).contains("tried"));
        assert!(advice(&all[..2], suggested(&all[..2]), 20).contains("the highest that was tried"));
        assert_eq!(suggested(&all[3..]), None);
        assert_eq!(all[3].row().split_whitespace().collect::<Vec<_>>(), ["1e-2", "diverged", "-", "-", "-"]);
    }
}
