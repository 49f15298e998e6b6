//! Arguments of `train`.

use std::path::PathBuf;

use clap::Args;

use super::{finite, some_text};

/// Arguments of `train`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dpo-lora train --base Qwen/Qwen2.5-0.5B-Instruct --data pairs.jsonl\n  \
    dpo-lora train -c run.yaml --set train.learning_rate=1e-5 --set output_dir=runs/b\n\n\
    Without arguments, the embedded quickstart is trained."
)]
pub struct TrainArgs {
    /// Run configuration [default: with --base and --data every key's default, else the embedded quickstart]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings that most runs need.
    #[command(flatten)]
    pub settings: TrainSettings,

    /// A file that was named without `-c`.
    #[arg(hide = true)]
    pub stray: Option<PathBuf>,

    /// Override one key; the value is YAML; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,

    /// Continue from the last checkpoint of the run directory; with DIR, as DIR/config.yaml says
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    pub resume: Option<Option<PathBuf>>,

    /// Continue the run if it was begun, else start it: for jobs that are restarted automatically
    #[arg(long, conflicts_with = "resume")]
    pub auto_resume: bool,

    /// Start again in a run directory that was used before
    #[arg(long, conflicts_with_all = ["resume", "auto_resume"])]
    pub overwrite: bool,

    /// Accept with a warning what is refused otherwise: a base that is not fully understood, adapters of another base,
    /// a run that does not seem to fit into memory
    #[arg(long)]
    pub force: bool,

    /// Serve the report of the run while it lasts: :PORT or ADDRESS:PORT; without an address, this machine alone sees it
    #[arg(long, value_name = "[ADDRESS]:PORT", value_parser = address)]
    pub serve: Option<std::net::SocketAddr>,

    /// Print what happens as JSON Lines to standard output, for a program that follows the run
    #[arg(long, conflicts_with = "dry_run")]
    pub json: bool,

    /// Print where the time of each step goes
    #[arg(long)]
    pub profile: bool,

    /// Check configuration, data and model, print the expected steps, tokens and memory, and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// Keys of the configuration that have a flag. Like `--set`, a flag overrides the file.
#[derive(Clone, Debug, Args)]
pub struct TrainSettings {
    /// Base model: a directory, a .gguf file, or a Hub id (owner/name or owner/name@revision) [key: model.base]
    #[arg(long, value_name = "BASE", value_parser = some_text)]
    pub base: Option<String>,

    /// Training data: a file, glob, directory or hub:owner/name; can be repeated [key: data.train]
    #[arg(long, value_name = "DATA", value_parser = some_text)]
    pub data: Vec<String>,

    /// Held-out data, or the share of the training data to hold out, such as 0.05 [key: data.eval]
    #[arg(long, value_name = "DATA|SHARE", value_parser = some_text)]
    pub eval_data: Option<String>,

    /// Run directory [key: output_dir; default: runs/dpo, runs/dpo-2, ...]
    #[arg(long, value_name = "DIR", value_parser = some_text)]
    pub output: Option<String>,

    /// Loss; with commas or repeated, losses that are added [key: objective.loss_type]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = some_text)]
    pub loss: Vec<String>,

    /// Strength of the pull towards the reference [key: objective.beta]
    #[arg(long, value_name = "BETA", value_parser = finite, allow_negative_numbers = true)]
    pub beta: Option<f64>,

    /// Peak learning rate [key: train.learning_rate]
    #[arg(long, visible_alias = "lr", value_name = "RATE", value_parser = finite, allow_negative_numbers = true)]
    pub learning_rate: Option<f64>,

    /// Passes over the data; may be a fraction [key: train.num_train_epochs]
    #[arg(long, value_name = "N", value_parser = finite, allow_negative_numbers = true)]
    pub epochs: Option<f64>,
}

/// An address to listen at; only a port means this machine alone.
fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok((std::net::Ipv4Addr::LOCALHOST, port).into());
    }
    text.replace("localhost:", "127.0.0.1:")
        .parse()
        .map_err(|_| "must be a port such as :8080, or an address with a port such as 0.0.0.0:8080".into())
}
