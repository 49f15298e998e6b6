//! Arguments of `data check`, `data show` and `data convert`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::positive;

/// The subcommands of `data`.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  dpo-lora data check pairs.jsonl --base models/base")]
pub enum DataCommand {
    /// Print statistics of data and all that is wrong with them
    Check(DataCheckArgs),
    /// Show records as the model sees them: which tokens are scored, and which are special
    Show(ShowArgs),
    /// Write records as JSON Lines in one canonical form
    Convert(ConvertArgs),
}

/// Data, and the base that they are for.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Files, globs, directories or data sets of the Hub (hub:owner/name) [default: data.train of --config]
    #[arg(value_name = "FILE", required_unless_present = "config")]
    pub files: Vec<String>,

    /// Base whose tokens are counted or shown [default: model.base of --config]
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,

    /// Run configuration: base, evaluation data, format, columns, filter, chat template, truncation and batch size
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Maximum number of tokens of prompt and completion [default: as configured, else 1024]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_length: Option<usize>,

    /// Chat template: Jinja text, a file, or a name [default: as configured, else the base's]
    #[arg(long, value_name = "TEXT|FILE")]
    pub chat_template: Option<String>,
}

/// Arguments of `data check`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora data check pairs.jsonl --base models/base --eval test.jsonl")]
pub struct DataCheckArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,

    /// Evaluation data, which should have nothing in common with the others [default: data.eval of --config]
    #[arg(long, value_name = "FILE")]
    pub eval: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `data show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dpo-lora data show pairs.jsonl --base models/base -n 1")]
pub struct ShowArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,

    /// Number of records to show
    #[arg(short, long, value_name = "N", default_value = "3", value_parser = positive)]
    pub number: usize,

    /// The first record to show, counted from 1
    #[arg(long, value_name = "K", default_value = "1", value_parser = positive)]
    pub start: usize,

    /// Write a page in HTML to this file instead of text to standard output
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
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
