//! Arguments of `eval` and its subcommands.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};

use super::{ModelArgs, RuntimeArgs, finite, positive, probability, reward, seconds, temperature};
use crate::reward::Spec;

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    after_help = "Example:\n  dpo-lora eval --base models/base --adapter runs/a/adapter --data test.jsonl"
)]
pub struct EvalArgs {
    /// The evaluation of pairs.
    #[command(flatten)]
    pub pairs: Plain,

    /// An evaluation other than that of pairs
    #[command(subcommand)]
    pub command: Option<EvalCommand>,
}

/// The arguments of `eval` itself, which a subcommand makes unnecessary.
#[derive(Debug)]
pub struct Plain(pub Option<EvalPairsArgs>);

impl FromArgMatches for Plain {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // Required unless there is a subcommand.
        let is_asked = matches.contains_id("data");
        is_asked.then(|| EvalPairsArgs::from_arg_matches(matches)).transpose().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Plain {
    fn augment_args(command: Command) -> Command {
        EvalPairsArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        EvalPairsArgs::augment_args_for_update(command)
    }
}

/// Arguments of `eval` without a subcommand.
#[derive(Debug, Args)]
pub struct EvalPairsArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// Preference pairs: a file, glob or directory
    #[arg(long, value_name = "FILE")]
    pub data: String,

    /// β of the rewards and the loss [default: as the adapter was trained, else 0.1]
    #[arg(long, value_name = "BETA")]
    pub beta: Option<f64>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The subcommands of `eval`.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// How often a judge prefers a policy's answers to another policy's, or to the chosen answers
    WinRate(WinRateArgs),
    /// The win rates of several `eval win-rate` in one table and figure
    Overlay(OverlayArgs),
    /// Expected reward against KL(policy || reference) of several runs, on their samples
    Frontier(FrontierArgs),
    /// Held-out error against the number of training pairs, and whether a + b/sqrt(N) fits
    LearningCurve(LearningCurveArgs),
    /// Calibration, displacement of likelihood, and tables by source and length, over pairs
    Calibration(CalibrationArgs),
}

/// Prompts to complete, and how.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("questions").required(true))]
pub struct DrawArgs {
    /// File with prompts: one per line, or one JSON object with a `prompt` per line
    #[arg(long, value_name = "FILE", group = "questions")]
    pub prompts: Option<PathBuf>,

    /// Preference pairs whose prompts are completed
    #[arg(long, value_name = "FILE", group = "questions")]
    pub data: Option<String>,

    /// Send the prompts of --prompts as user messages of the chat template [default: if the model has one]
    #[arg(long, overrides_with = "no_chat")]
    pub chat: bool,

    /// Send the prompts of --prompts as they are, without a chat template
    #[arg(long, overrides_with = "chat")]
    pub no_chat: bool,

    /// Take only the first N prompts
    #[arg(long, value_name = "N", value_parser = positive)]
    pub limit: Option<usize>,

    /// Completions of each prompt
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    pub samples: usize,

    /// Maximum number of tokens to generate
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive)]
    pub max_new_tokens: usize,

    /// Random seed for sampling and for the intervals
    #[arg(long, value_name = "N", default_value = "42")]
    pub seed: u64,
}

impl DrawArgs {
    /// The choice of `--chat` or `--no-chat`; `None` leaves it to the model.
    pub fn chat(&self) -> Option<bool> {
        (self.chat || self.no_chat).then_some(self.chat)
    }
}

/// Where results go.
#[derive(Debug, Args)]
pub struct ResultArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// Time that one call of a reward command may take
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub reward_timeout: u64,
}

/// Who compares answers.
#[derive(Clone, Debug)]
pub enum JudgeSpec {
    /// The endpoint that a file describes.
    Endpoint(PathBuf),
    /// A reward: the greater one wins.
    Reward(Spec),
}

impl FromStr for JudgeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("endpoint", file)) if !file.is_empty() => Ok(Self::Endpoint(file.into())),
            _ => reward(text)
                .map(Self::Reward)
                .map_err(|error| format!("{error}; a judge can also be endpoint:FILE.yaml")),
        }
    }
}

/// Arguments of `eval win-rate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora eval win-rate --base models/base --adapter runs/a --data test.jsonl --against chosen --judge endpoint:judge.yaml --temperature 0,0.5,1"
)]
pub struct WinRateArgs {
    /// The policy.
    #[command(flatten)]
    pub model: ModelArgs,

    /// What its answers are compared with: reference (the base alone), chosen (of --data), or another adapter
    #[arg(long, value_name = "WHAT", default_value = "reference")]
    pub against: String,

    /// The judge: endpoint:FILE.yaml, or a reward (length, regex:PATTERN, command:PROGRAM, adapter:DIR, tiny-reviews)
    #[arg(long, value_name = "JUDGE")]
    pub judge: JudgeSpec,

    /// Sampling temperatures, separated by commas
    #[arg(long, value_name = "T", default_value = "1", value_delimiter = ',', value_parser = temperature)]
    pub temperature: Vec<f64>,

    /// Temperature of the policy that is compared with [default: the same]
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub against_temperature: Option<f64>,

    /// Sample from the most likely tokens with a total probability of P
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f64>,

    /// Answer with the best of N samples by the reward of --best-of-by (at temperature 0 with the only one)
    #[arg(long, value_name = "N", value_parser = positive, requires = "best_of_by")]
    pub best_of: Option<usize>,

    /// The reward by which --best-of chooses
    #[arg(long, value_name = "REWARD", value_parser = reward, requires = "best_of")]
    pub best_of_by: Option<Spec>,

    /// The prompts.
    #[command(flatten)]
    pub draw: DrawArgs,

    /// Directory of results, samples and the judge's transcript; the same command goes on there
    #[arg(long, value_name = "DIR", default_value = "win-rate")]
    pub output: PathBuf,

    /// How results are printed.
    #[command(flatten)]
    pub results: ResultArgs,
}

/// Arguments of `eval overlay`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora eval overlay rates/dpo rates/sft --output rates")]
pub struct OverlayArgs {
    /// Directories of `eval win-rate --output`; each is a curve, named as the directory
    #[arg(value_name = "DIR", required = true)]
    pub rates: Vec<PathBuf>,

    /// Directory of results
    #[arg(long, value_name = "DIR", default_value = "overlay")]
    pub output: PathBuf,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A base and runs on it.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Run directories or adapters
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,

    /// Their base: a directory, a .gguf file, or a Hub id
    #[arg(long, value_name = "BASE")]
    pub base: String,

    /// Accept a base that is not fully understood, and an adapter trained on another base, with a warning
    #[arg(long)]
    pub force: bool,

    /// How to run the model.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// Arguments of `eval frontier`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora eval frontier runs/a runs/b --base models/base --prompts prompts.jsonl --reward tiny-reviews"
)]
pub struct FrontierArgs {
    /// The runs.
    #[command(flatten)]
    pub set: RunsArgs,

    /// Reward of completions: length, regex:PATTERN, command:PROGRAM, adapter:DIR or tiny-reviews
    #[arg(long, value_name = "REWARD", value_parser = reward)]
    pub reward: Spec,

    /// Place best-of-N of the reference, too: the best of N of its samples, for each N (with commas)
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = positive)]
    pub best_of: Vec<usize>,

    /// The reward by which the best is chosen; can be repeated [default: --reward]
    #[arg(long, value_name = "REWARD", value_parser = reward, requires = "best_of")]
    pub best_of_by: Vec<Spec>,

    /// Leave runs beyond this divergence out of the figure (tables and comparisons keep them)
    #[arg(long, value_name = "KL", value_parser = finite)]
    pub figure_kl: Option<f64>,

    /// The prompts.
    #[command(flatten)]
    pub draw: DrawArgs,

    /// Directory of results and samples; the same command goes on there
    #[arg(long, value_name = "DIR", default_value = "frontier")]
    pub output: PathBuf,

    /// How results are printed.
    #[command(flatten)]
    pub results: ResultArgs,
}

/// What falls with the number of training pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeldOut {
    /// Share of pairs whose chosen answer does not have the greater reward
    Error,
    /// Mean of -log sigmoid(margin)
    Loss,
}

/// Arguments of `eval learning-curve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora eval learning-curve runs/n100 runs/n400 runs/n1600 --data test.jsonl"
)]
pub struct LearningCurveArgs {
    /// Run directories; each says how many pairs it was trained on
    #[arg(value_name = "RUN", required_unless_present = "points", conflicts_with = "points")]
    pub runs: Vec<PathBuf>,

    /// Held-out preference pairs: a file, glob or directory
    #[arg(long, value_name = "FILE", required_unless_present = "points", conflicts_with = "points")]
    pub data: Option<String>,

    /// Fit these points instead: a CSV file with the columns n, error and standard_error
    #[arg(long, value_name = "FILE.csv")]
    pub points: Option<PathBuf>,

    /// What is measured
    #[arg(long, value_name = "WHAT", default_value = "error")]
    pub measure: HeldOut,

    /// Accept an adapter trained on another base, with a warning
    #[arg(long)]
    pub force: bool,

    /// How to run the models.
    #[command(flatten)]
    pub runtime: RuntimeArgs,

    /// Directory of results; runs that are measured there are not measured again
    #[arg(long, value_name = "DIR", default_value = "learning-curve")]
    pub output: PathBuf,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `eval calibration`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora eval calibration --base models/base --adapter runs/a --data test.jsonl"
)]
pub struct CalibrationArgs {
    /// The pairs and the model.
    #[command(flatten)]
    pub pairs: EvalPairsArgs,

    /// Directory of results
    #[arg(long, value_name = "DIR", default_value = "calibration")]
    pub output: PathBuf,
}
