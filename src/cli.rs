//! The command line: definitions only. `commands/` does the work.

mod adapters;
mod collect;
mod data;
mod eval;
mod offered;
mod people;
mod train;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::error::{Error, Result};
use crate::generate::SamplingConfig;
use crate::model::config::{DeviceChoice, FourBit, WeightDtype};
use crate::reward::Spec;
pub use adapters::{
    CombinationName, ExportArgs, ExportFormat, GgufNumbers, InspectArgs, MajoritySignName, MergeArgs,
    MergeDtype, MergeFormat, ServerName,
};
pub use collect::{CollectArgs, StrategyName};
pub use data::{ConvertArgs, DataArgs, DataCheckArgs, DataCommand, ShowArgs};
pub use eval::{
    CalibrationArgs, DrawArgs, EvalArgs, EvalCommand, EvalPairsArgs, FrontierArgs, HeldOut, JudgeSpec,
    LearningCurveArgs, OverlayArgs, WinRateArgs,
};
use offered::Offered;
pub use people::{ChatArgs, InitArgs, LrFindArgs, PushArgs};
pub use train::TrainArgs;

/// Fine-tune a causal language model from human preferences: Direct Preference Optimization with LoRA.
#[derive(Debug, Parser)]
#[command(name = "dpo-lora", version, about, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Results go to standard output, everything else to standard error.\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage, configuration or a missing file, 130 or 143 interrupted.")]
pub struct Cli {
    /// Print only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments of `devices`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora devices")]
pub struct DevicesArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at a base, data and this machine, and write a configuration that trains
    Init(InitArgs),
    /// Train an adapter on preference pairs
    Train(TrainArgs),
    /// Compare learning rates by short runs
    LrFind(LrFindArgs),
    /// Print the log-probabilities of every pair under policy and reference, as JSON Lines
    Score(ScoreArgs),
    /// Measure how often, and by how much, a model prefers the chosen completions
    Eval(Box<EvalArgs>),
    /// Complete prompts
    Generate(GenerateArgs),
    /// Talk to a model with its adapter on, off or both, and save the answers that you prefer
    Chat(ChatArgs),
    /// Collect preferences: two answers side by side, and which is better
    Collect(CollectArgs),
    /// Fold adapters into the base's weights, or combine them into one adapter
    Merge(MergeArgs),
    /// Write an adapter for llama.cpp, mlx-lm or PEFT, and list the servers that load it
    Export(ExportArgs),
    /// Upload an adapter and its model card to the Hugging Face Hub
    Push(PushArgs),
    /// Describe a model, an adapter or a run directory
    Inspect(InspectArgs),
    /// Write a page with the curves, warnings and settings of runs
    Report(ReportArgs),
    /// Check, show or convert data
    #[command(subcommand)]
    Data(DataCommand),
    /// List CPU, GPUs, driver and libraries, and what is missing
    Devices(DevicesArgs),
    /// List what is kept in the cache, or remove it
    Cache(CacheArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// A base, its adapters, and how to run them.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Base model: a directory, a .gguf file, or a Hub id (owner/name or owner/name@revision)
    #[arg(long, value_name = "BASE")]
    pub base: String,

    /// Adapter: a directory, a GGUF file, or the run directory that it is in; can be repeated to stack several
    #[arg(long, value_name = "PATH")]
    pub adapter: Vec<PathBuf>,

    /// Accept a base that is not fully understood, and an adapter trained on another base, with a warning
    #[arg(long)]
    pub force: bool,

    /// Take objective, template and truncation from this run configuration [default: as the adapter was trained]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Chat template: Jinja text or a file [default: the adapter's, else the base's]
    #[arg(long, value_name = "TEXT|FILE")]
    pub chat_template: Option<String>,

    /// How to run the model.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// How to run a model.
#[derive(Clone, Copy, Debug, Args)]
pub struct RuntimeArgs {
    /// Type of the base's weights: auto (as stored), f32, bf16 or f16
    #[arg(long, default_value = "auto", hide_possible_values = true)]
    #[arg(value_parser = Offered(WeightDtype::from_str, &["auto", "f32", "bf16", "f16"]))]
    pub dtype: WeightDtype,

    /// Quantise the base's projections while loading: nf4
    #[arg(long, value_name = "TYPE", hide_possible_values = true)]
    #[arg(value_parser = Offered(FourBit::from_str, &["nf4"]))]
    pub load_in_4bit: Option<FourBit>,

    /// Device: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", hide_possible_values = true)]
    #[arg(value_parser = Offered(DeviceChoice::from_str, DEVICES))]
    pub device: DeviceChoice,

    /// Number of threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// Arguments of `score`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora score --base models/base --adapter runs/a/adapter --data pairs.jsonl > scores.jsonl"
)]
pub struct ScoreArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// Preference pairs: a file, glob or directory
    #[arg(long, value_name = "FILE")]
    pub data: String,

    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE.jsonl")]
    pub output: Option<PathBuf>,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora generate --base models/base --adapter runs/a/adapter --compare --prompt 'Once upon a time'"
)]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// A prompt; can be repeated
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts", conflicts_with = "prompts")]
    pub prompt: Vec<String>,

    /// File with prompts: one per line, or one JSON object with a `prompt` per line
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,

    /// Maximum number of tokens to generate
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive)]
    pub max_new_tokens: usize,

    /// Sampling temperature; 0 always takes the most likely token [default: 0, or 1 for several completions]
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f64>,

    /// Sample from the K most likely tokens
    #[arg(long, value_name = "K", value_parser = positive)]
    pub top_k: Option<usize>,

    /// Sample from the most likely tokens with a total probability of P
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f64>,

    /// Random seed for sampling
    #[arg(long, value_name = "N", default_value = "42")]
    pub seed: u64,

    /// Number of completions of each prompt, each with its own seed
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "best_of")]
    pub n: Option<usize>,

    /// Draw N completions of each prompt and show the one with the greatest reward
    #[arg(long, value_name = "N", value_parser = positive, requires = "reward")]
    pub best_of: Option<usize>,

    /// Reward of completions: length, regex:PATTERN, command:PROGRAM, adapter:DIR or tiny-reviews
    #[arg(long, value_name = "REWARD", value_parser = reward)]
    pub reward: Option<Spec>,

    /// Time that one call of a reward command may take
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub reward_timeout: u64,

    /// Stop before this text; can be repeated
    #[arg(long, value_name = "TEXT", value_parser = some_text)]
    pub stop: Vec<String>,

    /// Send prompts as user messages of the chat template [default: if the model has one]
    #[arg(long, overrides_with = "no_chat")]
    pub chat: bool,

    /// Send prompts as they are, without a chat template
    #[arg(long, overrides_with = "chat")]
    pub no_chat: bool,

    /// Complete each prompt first with the adapter off, then on
    #[arg(long, requires = "adapter")]
    pub compare: bool,

    /// Print one JSON object per completion
    #[arg(long)]
    pub json: bool,
}

impl GenerateArgs {
    /// The choice of `--chat` or `--no-chat`; `None` leaves it to the model.
    pub fn chat(&self) -> Option<bool> {
        (self.chat || self.no_chat).then_some(self.chat)
    }

    /// The number of completions of each prompt.
    pub fn completions(&self) -> usize {
        self.best_of.or(self.n).unwrap_or(1)
    }

    /// A warning of options of sampling that a temperature of 0 makes idle.
    pub fn idle(&self) -> Option<String> {
        let options = [("--top-k", self.top_k.is_some()), ("--top-p", self.top_p.is_some())];
        let given = options.into_iter().find(|(_, given)| *given)?.0;
        let is_greedy = self.temperature.is_none_or(|it| it == 0.0) && self.completions() == 1;
        let (which, verb) = match self.temperature {
            None => ("the default temperature of 0", "add"),
            Some(_) => ("a temperature of 0", "set"),
        };
        is_greedy.then(|| {
            format!(
                "{given} has no effect at {which}, which always takes the most likely token; {verb} --temperature 1"
            )
        })
    }

    /// How tokens are chosen.
    ///
    /// # Errors
    /// If several completions are asked for that would all be the same.
    pub fn sampling(&self) -> Result<SamplingConfig> {
        let several = self.completions() > 1;
        let temperature = self.temperature.unwrap_or(if several { 1.0 } else { 0.0 });
        let sampling = SamplingConfig { temperature, top_k: self.top_k, top_p: self.top_p, seed: self.seed };
        if several && sampling.is_greedy() {
            return Err(Error::Config(format!(
                "--temperature {temperature} gives the same completion {} times; raise it or ask for one completion",
                self.completions()
            )));
        }
        Ok(sampling)
    }
}

/// Arguments of `report`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora report runs/a runs/b --output both.html")]
pub struct ReportArgs {
    /// Run directories, or folders of them; several runs are laid over each other
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,

    /// The page to write [default: report.html in the run directory, or here for several runs]
    #[arg(long, value_name = "FILE.html")]
    pub output: Option<PathBuf>,
}

/// Arguments of `cache`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora cache clear reference")]
pub struct CacheArgs {
    /// What to do [default: list]
    #[command(subcommand)]
    pub command: Option<CacheCommand>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `cache` does besides listing.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Remove what is in the cache; all of it can be made again
    Clear {
        /// Names of parts, as `dpo-lora cache` lists them [default: all]
        #[arg(value_name = "NAME")]
        parts: Vec<String>,
    },
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora completions bash > ~/.local/share/bash-completion/completions/dpo-lora"
)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Devices that shells offer; `cuda:N` names another card.
const DEVICES: &[&str] = &["auto", "cpu", "cuda"];

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number of 1 or more".into()),
        Ok(number) => Ok(number),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    let most = crate::train::config::MOST_THREADS;
    positive(text)
        .ok()
        .filter(|n| *n <= most)
        .ok_or_else(|| format!("must be a whole number from 1 to {most}"))
}

fn some_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty: every text begins with it".into()) } else { Ok(text.into()) }
}

fn reward(text: &str) -> Result<Spec, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn seconds(text: &str) -> Result<u64, String> {
    // A month; the sum of the time of day and of this is always a time.
    const MOST: u64 = 31 * 24 * 3600;
    text.parse()
        .ok()
        .filter(|seconds| (1..=MOST).contains(seconds))
        .ok_or_else(|| format!("must be a whole number of seconds from 1 to {MOST}"))
}

fn finite(text: &str) -> Result<f64, String> {
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| "must be a number".into())
}

fn temperature(text: &str) -> Result<f64, String> {
    finite(text).ok().filter(|number| *number >= 0.0).ok_or_else(|| "must be 0 (greedy) or more".into())
}

fn probability(text: &str) -> Result<f64, String> {
    finite(text)
        .ok()
        // Sampling computes in f32, where smaller numbers are 0.
        .filter(|number| *number as f32 > 0.0 && *number <= 1.0)
        .ok_or_else(|| "must be in (0, 1]".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("dpo-lora").chain(line.split_whitespace()))
    }

    fn generate(rest: &str) -> Result<GenerateArgs, clap::Error> {
        match parse(&format!("generate --base b {rest}"))?.command {
            Command::Generate(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_an_example_that_parses() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> =
                help.lines().filter_map(|line| line.trim().strip_prefix("dpo-lora ")).collect();
            assert!(help.trim().starts_with("Example") && !examples.is_empty(), "{}", command.get_name());
            for line in examples {
                let line = line.split('>').next().unwrap().replace("'Once upon a time'", "text");
                assert!(line.starts_with(command.get_name()), "{line}");
                parse(&line).unwrap();
            }
        }
    }

    #[test]
    fn usage_errors_are_caught_before_any_work() {
        for line in [
            "",
            "train --resume --overwrite",
            "train --base b --data d --beta x",
            "train --base b --data d --epochs nan",
            "train --base b --base c --data d",
            "train --base",
            "train --resume runs/a --auto-resume",
            "-q -v inspect x",
            "generate --base b",
            "generate --base b --prompt a --prompts f",
            "generate --base b --prompt a --compare",
            "generate --base b --prompt a --top-p 1.5",
            "generate --base b --prompt a --temperature -1",
            "generate --base b --prompt a --max-new-tokens 0",
            "generate --base b --prompt a --n 0",
            "generate --base b --prompt a --best-of 2",
            "generate --base b --prompt a --n 2 --best-of 2 --reward length",
            "generate --base b --prompt a --reward lenght",
            "generate --base b --prompt a --reward-timeout 0",
            "eval --base b --data d --device tpu",
            "score --base b --data d --dtype int4",
            "merge --base b --output o",
            "merge --base b --output o --adapter a --weights nan",
            "merge --base b --adapter a",
            "merge --base b --adapter a --output o --output-adapter p",
            "merge --base b --adapter a --output o --combination cat",
            "merge --base b --adapter a --output-adapter p --format gguf",
            "merge --base b --adapter a --output-adapter p --unmerge",
            "merge --base b --adapter a --output-adapter p --dtype f16",
            "merge --base b --adapter a --output-adapter p --combination ties --density 0",
            "merge --base b --adapter a --output-adapter p --rank 0",
            "inspect a --against",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn repeated_and_paired_flags() {
        let args = generate("--prompt a --prompt b --stop x --stop y --adapter p --adapter q").unwrap();
        assert_eq!((args.prompt.len(), args.stop.len(), args.model.adapter.len()), (2, 2, 2));
        assert_eq!((args.max_new_tokens, args.completions(), args.chat()), (128, 1, None));
        assert_eq!(args.sampling().unwrap().temperature, 0.0);
        let several = generate("--prompt a --best-of 4 --reward length").unwrap();
        assert_eq!((several.completions(), several.sampling().unwrap().temperature), (4, 1.0));
        assert!(generate("--prompt a --n 3 --temperature 1e-9").unwrap().sampling().is_err());
        for option in ["--top-k 5", "--top-p 0.5"] {
            let idle = |more: &str| generate(&format!("--prompt a {option} {more}")).unwrap().idle();
            assert!(idle("").unwrap().starts_with(option.split(' ').next().unwrap()));
            assert!(idle("--temperature 0").unwrap().contains("at a temperature of 0"));
            for more in ["--temperature 1", "--n 2"] {
                assert_eq!(idle(more), None, "{more}");
            }
        }
        assert_eq!(generate("--prompt a --seed 3").unwrap().idle(), None);
        assert_eq!(generate("--prompt a --chat").unwrap().chat(), Some(true));
        assert_eq!(generate("--prompt a --chat --no-chat").unwrap().chat(), Some(false));
        let Command::Merge(merge) =
            parse("merge --base b --adapter a --adapter c --weights 0.7,-0.3 --output o").unwrap().command
        else {
            panic!("not merge")
        };
        assert_eq!(merge.weights, [0.7, -0.3]);
        let resume = |line| match parse(line).unwrap().command {
            Command::Train(args) => (args.resume, args.config),
            other => panic!("{other:?}"),
        };
        assert_eq!(resume("train --resume -c run.yaml"), (Some(None), Some("run.yaml".into())));
        assert_eq!(resume("train --resume runs/a"), (Some(Some("runs/a".into())), None));
    }

    #[test]
    fn lr_find_shows_no_option_that_it_always_refuses() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("lr-find").unwrap().render_long_help().to_string();
        for option in ["--output", "--learning-rate", "--lr ", "--epochs"] {
            assert!(!help.contains(option), "{option} in {help}");
        }
        assert!(help.contains("--rates") && help.contains("--eval-data"), "{help}");
        // They are known, so that the refusal says what to write instead.
        assert!(parse("lr-find -c run.yaml --epochs 2").is_ok());
    }

    #[test]
    fn values_are_offered_and_others_are_taken() {
        let runtime = |option: &str| match parse(&format!("chat --base b {option}"))?.command {
            Command::Chat(args) => Ok::<_, clap::Error>(args.model.runtime),
            other => panic!("{other:?}"),
        };
        assert_eq!(runtime("--dtype bfloat16").unwrap().dtype, WeightDtype::BF16);
        assert_eq!(runtime("--device cuda:3").unwrap().device, DeviceChoice::Cuda(3));
        assert_eq!(runtime("--load-in-4bit nf4").unwrap().load_in_4bit, Some(FourBit::Nf4));
        let error = runtime("--dtype int4").unwrap_err().to_string();
        assert!(
            error.contains("write auto, f32, bf16 or f16") && !error.contains("possible values"),
            "{error}"
        );
    }

    #[test]
    fn global_flags_stand_on_either_side() {
        assert!(parse("-q inspect x").unwrap().quiet);
        assert_eq!(parse("inspect x -vv").unwrap().verbose, 2);
        let Command::Eval(eval) =
            parse("eval --base b --data d --device cuda:1 --dtype bf16").unwrap().command
        else {
            panic!("not eval")
        };
        let runtime = eval.pairs.0.as_ref().unwrap().model.runtime;
        assert_eq!((runtime.device, runtime.dtype), (DeviceChoice::Cuda(1), WeightDtype::BF16));
        assert!(eval.command.is_none());
    }

    #[test]
    fn eval_is_that_of_pairs_or_a_subcommand() {
        let eval = |line: &str| match parse(&format!("eval {line}"))?.command {
            Command::Eval(args) => Ok::<_, clap::Error>(args),
            other => panic!("{other:?}"),
        };
        let rate =
            eval("win-rate --base b --adapter a --prompts p --judge endpoint:j.yaml --temperature 0,0.5")
                .unwrap();
        assert!(rate.pairs.0.is_none());
        let Some(EvalCommand::WinRate(args)) = rate.command else { panic!("not win-rate") };
        assert!(matches!(&args.judge, JudgeSpec::Endpoint(path) if path.ends_with("j.yaml")));
        assert_eq!((args.temperature, args.draw.chat()), (vec![0.0, 0.5], None));
        for wrong in [
            "",
            "--base b",
            "--data d",
            "--base b --data d win-rate --base b --prompts p --judge length",
            "win-rate --base b --judge length",
            "win-rate --base b --prompts p --data d --judge length",
            "win-rate --base b --prompts p --judge endpoint:",
            "win-rate --base b --prompts p --judge lenght",
            "win-rate --base b --prompts p --judge length --temperature 0,-1",
            "frontier --base b --prompts p --reward length",
            "frontier r --base b --prompts p",
            "learning-curve r",
            "learning-curve r --data d --points p",
            "calibration --base b",
        ] {
            assert!(eval(wrong).is_err(), "{wrong}");
        }
        assert!(eval("learning-curve --points p.csv").is_ok());
    }
}
