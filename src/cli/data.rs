//! Arguments of `data check` and `data convert`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::positive;

/// The subcommands of `data`.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dpo-lora data check pairs.jsonl --base models/base")]
pub enum DataCommand {
    /// Print statistics of data and all that is wrong with them
    Check(DataCheckArgs),
    /// Write records as JSON Lines in one canonical form
    Convert(ConvertArgs),
}

/// Arguments of `data check`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora data check pairs.jsonl --base models/base --eval test.jsonl")]
pub struct DataCheckArgs {
    /// Files, globs, directories or data sets of the Hub (hub:owner/name) [default: data.train of --config]
    #[arg(value_name = "FILE", required_unless_present = "config")]
    pub files: Vec<String>,

    /// Base whose tokens are counted [default: model.base of --config]
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,

    /// Run configuration: base, evaluation data, chat template, truncation and batch size
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Evaluation data, which should have nothing in common with the others [default: data.eval of --config]
    #[arg(long, value_name = "FILE")]
    pub eval: Option<String>,

    /// Maximum number of tokens of prompt and completion [default: as configured, else 1024]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_length: Option<usize>,

    /// Chat template: Jinja text, a file, or a name [default: as configured, else the base's]
    #[arg(long, value_name = "TEXT|FILE")]
    pub chat_template: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `data convert`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora data convert pairs.json -o pairs.jsonl")]
pub struct ConvertArgs {
    /// Files, globs, directories or data sets of the Hub (hub:owner/name)
    #[arg(value_name = "FILE", required_unless_present = "config")]
    pub files: Vec<String>,

    /// Run configuration: data, format, columns and filter
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The file to write
    #[arg(short, long, value_name = "FILE.jsonl")]
    pub output: PathBuf,
}
