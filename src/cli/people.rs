//! Arguments of the commands that prepare, try and publish: `init`, `lr-find`, `chat`, `push`.

use std::path::PathBuf;

use clap::Args;

use super::train::TrainSettings;
use super::{ModelArgs, finite, positive, probability, some_text, temperature};

/// Arguments of `init`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora init --base Qwen/Qwen2.5-0.5B-Instruct --data pairs.jsonl --output run.yaml"
)]
pub struct InitArgs {
    /// Base model: a directory, a .gguf file, or a Hub id (owner/name or owner/name@revision)
    #[arg(long, value_name = "BASE", value_parser = some_text)]
    pub base: String,

    /// Training data: a file, glob, directory or hub:owner/name; can be repeated
    #[arg(long, value_name = "DATA", required = true, value_parser = some_text)]
    pub data: Vec<String>,

    /// Held-out data [default: a share of the training data]
    #[arg(long, value_name = "DATA", value_parser = some_text)]
    pub eval_data: Option<String>,

    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "run.yaml")]
    pub output: PathBuf,

    /// Replace an existing file, and accept a base that is not fully understood
    #[arg(long)]
    pub force: bool,

    /// Do not measure the time of two steps
    #[arg(long)]
    pub no_timing: bool,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora chat --base models/base --adapter runs/a --save pairs.jsonl\n\n\
    /help lists the commands of the conversation. Ctrl-C stops an answer."
)]
pub struct ChatArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// The system prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Where /save appends pairs
    #[arg(long, value_name = "FILE.jsonl", default_value = "preferred.jsonl")]
    pub save: PathBuf,

    /// Maximum number of tokens of an answer
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    pub max_new_tokens: usize,

    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value = "0.7", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: f64,

    /// Sample from the most likely tokens with a total probability of P
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f64>,

    /// Random seed for sampling
    #[arg(long, value_name = "N", default_value = "42")]
    pub seed: u64,
}

/// Arguments of `lr-find`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dpo-lora lr-find -c run.yaml\n  \
    dpo-lora lr-find --base models/base --data pairs.jsonl --rates 1e-5,1e-4 --steps 50")]
// They are refused with what to write instead.
#[command(mut_arg("output", |refused| refused.hide(true)))]
#[command(mut_arg("learning_rate", |refused| refused.hide(true)))]
#[command(mut_arg("epochs", |refused| refused.hide(true)))]
pub struct LrFindArgs {
    /// Run configuration [default: as `train`]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings that most runs need.
    #[command(flatten)]
    pub settings: TrainSettings,

    /// Override one key; the value is YAML; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,

    /// Learning rates to compare [default: 1e-5,3e-5,1e-4,3e-4,1e-3]
    #[arg(long, value_name = "RATE,...", value_delimiter = ',', value_parser = rate)]
    pub rates: Vec<f64>,

    /// Steps of each run
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,

    /// Accept a base that is not fully understood
    #[arg(long)]
    pub force: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    finite(text)
        .ok()
        .filter(|rate| *rate > 0.0)
        .ok_or_else(|| "must be a number above 0, such as 1e-4".into())
}

/// Arguments of `push`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora push runs/a my-name/my-adapter --private\n\n\
    HF_TOKEN, or the token that `hf auth login` keeps, must allow writing.")]
pub struct PushArgs {
    /// A run directory, or the PEFT directory of an adapter
    #[arg(value_name = "ADAPTER")]
    pub adapter: PathBuf,

    /// The repository of the Hub: owner/name, or owner/name@branch
    #[arg(value_name = "OWNER/NAME")]
    pub repository: String,

    /// Make the repository private if it has to be created
    #[arg(long)]
    pub private: bool,

    /// The message of the commit
    #[arg(long, value_name = "TEXT", default_value = "Upload adapter with dpo-lora", value_parser = some_text)]
    pub message: String,

    /// Print what would be uploaded, and upload nothing
    #[arg(long)]
    pub dry_run: bool,
}
