//! Arguments of the commands that work on adapters: `merge`, `export`, `inspect`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, ValueEnum};

use super::{DEVICES, Offered, finite, positive, probability, threads};
use crate::model::config::DeviceChoice;

/// Arguments of `merge`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("to").required(true).args(["output", "output_adapter"]),
    after_help = "Example:\n  dpo-lora merge --base models/base --adapter runs/a/adapter --output models/merged --dtype bf16"
)]
pub struct MergeArgs {
    /// Base model: a directory, or a Hub id (owner/name or owner/name@revision)
    #[arg(long, value_name = "BASE")]
    pub base: String,

    /// Adapter (PEFT or mlx-lm directory, GGUF file); can be repeated to merge several
    #[arg(long, value_name = "PATH", required = true)]
    pub adapter: Vec<PathBuf>,

    /// One factor per adapter, such as 0.7,-0.3 [default: 1 each]
    #[arg(long, value_name = "W,...", value_delimiter = ',', value_parser = finite, allow_hyphen_values = true)]
    pub weights: Vec<f64>,

    /// Where to write the merged model: a directory, or a file with --format gguf
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Format of the merged model
    #[arg(long, value_enum, default_value = "safetensors", conflicts_with = "output_adapter")]
    pub format: MergeFormat,

    /// Subtract the adapters from a base that they were merged into
    #[arg(long, conflicts_with = "output_adapter")]
    pub unmerge: bool,

    /// Combine the adapters into one, and write it to this PEFT directory
    #[arg(long, value_name = "DIR")]
    pub output_adapter: Option<PathBuf>,

    /// How to combine the adapters [default: svd; linear for a single one]
    #[arg(long, value_enum, conflicts_with = "output")]
    pub combination: Option<CombinationName>,

    /// Share of the numbers that ties, dare_linear, dare_ties and magnitude_prune keep
    #[arg(long, value_name = "P", value_parser = probability, conflicts_with = "output")]
    pub density: Option<f64>,

    /// How ties and dare_ties choose the sign of each number
    #[arg(long, value_enum, default_value = "total", conflicts_with = "output")]
    pub majority_sign_method: MajoritySignName,

    /// Random seed for the numbers that dare_linear and dare_ties drop (torch drops others)
    #[arg(long, value_name = "N", default_value = "42")]
    pub seed: u64,

    /// Rank of the result of svd [default: the largest rank of the adapters]
    #[arg(long, value_name = "R", value_parser = positive, conflicts_with = "output")]
    pub rank: Option<usize>,

    /// Type of the merged weights; q8_0, q6_k and q4_k_m need --format gguf
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "output_adapter")]
    pub dtype: MergeDtype,

    /// Device for the verification: cpu, auto, cuda or cuda:N; a GPU verifies in f32
    #[arg(long, default_value = "cpu", hide_possible_values = true)]
    #[arg(value_parser = Offered(DeviceChoice::from_str, DEVICES))]
    pub device: DeviceChoice,

    /// Number of threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// Preference pairs on which to measure how much of the adapter's effect the merged model keeps [default: the
    /// pairs of the run, and texts of the adapter's own]
    #[arg(long, value_name = "PAIRS", conflicts_with_all = ["output_adapter", "no_verify"])]
    pub data: Option<String>,

    /// Do not compare the merged model with base and adapter
    #[arg(long)]
    pub no_verify: bool,

    /// Accept an adapter of another base, overwrite the output, and keep a model that fails verification
    #[arg(long)]
    pub force: bool,
}

/// Formats of a merged model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeFormat {
    /// A model directory as transformers writes it
    Safetensors,
    /// One file for llama.cpp
    Gguf,
}

/// Types of merged weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeDtype {
    /// As stored in the base
    Auto,
    /// 32-bit floats
    F32,
    /// bfloat16
    Bf16,
    /// Half precision
    F16,
    /// 8-bit blocks, only in GGUF
    #[value(name = "q8_0")]
    Q8_0,
    /// 6-bit super-blocks, only in GGUF
    #[value(name = "q6_k")]
    Q6K,
    /// llama.cpp's mixture of 4-bit and 6-bit super-blocks, only in GGUF
    #[value(name = "q4_k_m")]
    Q4KM,
}

impl fmt::Display for MergeDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// How `merge` combines adapters: PEFT's `combination_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum CombinationName {
    /// Add A and B element by element; all adapters need the same rank
    Linear,
    /// Put A and B side by side: the exact sum, with the sum of the ranks
    Cat,
    /// The exact sum, reduced to --rank
    Svd,
    /// Prune small numbers, choose signs, average the numbers that agree
    Ties,
    /// Drop numbers at random, rescale, add
    DareLinear,
    /// Drop numbers at random, then as ties
    DareTies,
    /// Prune small numbers, add
    MagnitudePrune,
}

/// How signs are chosen: PEFT's `majority_sign_method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MajoritySignName {
    /// The sign of the sum
    Total,
    /// The sign that most adapters have
    Frequency,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora export --base models/base --adapter runs/a/adapter --format gguf --output adapter.gguf"
)]
pub struct ExportArgs {
    /// Base model the adapter belongs to: a directory or a Hub id
    #[arg(long, value_name = "BASE")]
    pub base: String,

    /// Adapter (PEFT or mlx-lm directory, GGUF file); several are stacked into one
    #[arg(long, value_name = "PATH", required = true)]
    pub adapter: Vec<PathBuf>,

    /// Format to write
    #[arg(long, value_enum)]
    pub format: ExportFormat,

    /// Number type of a GGUF adapter (PEFT and mlx-lm adapters are f32)
    #[arg(long = "dtype", alias = "type", value_enum, default_value = "f32")]
    pub kind: GgufNumbers,

    /// Name the modules as this program does, and fail if it cannot serve the adapter
    #[arg(long = "for", value_enum, value_name = "PROGRAM")]
    pub program: Option<ServerName>,

    /// Fold the scale into B (lora_alpha = r), for servers that ignore rsLoRA or patterns
    #[arg(long)]
    pub fold_scale: bool,

    /// Where to write: a GGUF file, or a PEFT or mlx-lm directory
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,

    /// Print the table of servers as one JSON object
    #[arg(long)]
    pub json: bool,

    /// Accept an adapter of another base, or one that the program cannot serve; overwrite the output
    #[arg(long)]
    pub force: bool,
}

/// Formats of `export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// llama.cpp's adapter file
    Gguf,
    /// mlx-lm's directory
    Mlx,
    /// PEFT's directory
    Peft,
}

/// Programs that `export --for` can name the modules for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServerName {
    /// transformers 5 with PEFT
    Transformers,
    /// vLLM
    Vllm,
    /// SGLang
    Sglang,
}

/// Number types of a GGUF adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GgufNumbers {
    /// 32-bit floats
    F32,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
    /// 8-bit blocks
    #[value(name = "q8_0")]
    Q8_0,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora inspect runs/a/adapter --base models/base --against runs/b/adapter"
)]
pub struct InspectArgs {
    /// A base, an adapter, a run directory, a checkpoint, or a folder of runs
    pub path: String,

    /// For an adapter: its base, to print the share of the norm of the base's weights
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,

    /// For an adapter: accept another base with a warning
    #[arg(long, requires = "base")]
    pub force: bool,

    /// For an adapter: another adapter, to print the cosine between the two changes
    #[arg(long, value_name = "PATH")]
    pub against: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
