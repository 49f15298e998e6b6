//! Arguments of the commands whose subject is an adapter: `merge`, `export`, `inspect`.

use std::fmt;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::{finite, positive, probability, threads};
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

    /// Adapter (PEFT or mlx-lm directory, GGUF file); repeat to merge several
    #[arg(long, value_name = "PATH", required = true)]
    pub adapter: Vec<PathBuf>,

    /// One factor an adapter, such as 0.7,-0.3 [default: 1 each]
    #[arg(long, value_name = "W,...", value_delimiter = ',', value_parser = finite, allow_hyphen_values = true)]
    pub weights: Vec<f64>,

    /// The merged model: a directory, or a file with --format gguf
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// What the merged model is written as
    #[arg(long, value_enum, default_value = "safetensors", conflicts_with = "output_adapter")]
    pub format: MergeFormat,

    /// Take the adapters off again: the base is a model they were merged into
    #[arg(long, conflicts_with = "output_adapter")]
    pub unmerge: bool,

    /// Combine the adapters into one in this PEFT directory instead
    #[arg(long, value_name = "DIR")]
    pub output_adapter: Option<PathBuf>,

    /// How adapters are combined [default: svd; linear for a single one]
    #[arg(long, value_enum, conflicts_with = "output")]
    pub combination: Option<CombinationName>,

    /// Share of numbers kept, of ties, dare_linear, dare_ties and magnitude_prune
    #[arg(long, value_name = "P", value_parser = probability, conflicts_with = "output")]
    pub density: Option<f64>,

    /// How ties and dare_ties elect signs
    #[arg(long, value_enum, default_value = "total", conflicts_with = "output")]
    pub majority_sign_method: MajoritySignName,

    /// Seed of what dare_linear and dare_ties drop (the mask is this program's own, not torch's)
    #[arg(long, value_name = "N", default_value = "42")]
    pub seed: u64,

    /// Rank of svd [default: the largest of the adapters']
    #[arg(long, value_name = "R", value_parser = positive, conflicts_with = "output")]
    pub rank: Option<usize>,

    /// Type of the merged weights: auto (as stored), f32, bf16, f16, and with --format gguf q8_0, q6_k, q4_k_m
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "output_adapter")]
    pub dtype: MergeDtype,

    /// Where to verify: cpu, auto, cuda or cuda:N; a GPU verifies in f32
    #[arg(long, default_value = "cpu")]
    pub device: DeviceChoice,

    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// Pairs to measure the adapter's effect on that the merged model keeps [default: the run's, and the adapter's own texts]
    #[arg(long, value_name = "PAIRS", conflicts_with_all = ["output_adapter", "no_verify"])]
    pub data: Option<String>,

    /// Do not compare the merged model with base and adapter
    #[arg(long)]
    pub no_verify: bool,

    /// Merge into a base the adapter was not trained on; overwrite the output; keep a model that fails verification
    #[arg(long)]
    pub force: bool,
}

/// What `merge` writes a model as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeFormat {
    /// A model directory as transformers has it
    Safetensors,
    /// One file for llama.cpp
    Gguf,
}

/// Number types of a merged model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeDtype {
    /// As the base has it
    Auto,
    /// 32-bit floats
    F32,
    /// bfloat16
    Bf16,
    /// Half precision
    F16,
    /// 8-bit blocks, in GGUF alone
    #[value(name = "q8_0")]
    Q8_0,
    /// 6-bit super-blocks, in GGUF alone
    #[value(name = "q6_k")]
    Q6K,
    /// llama.cpp's mixture of 4-bit and 6-bit super-blocks, in GGUF alone
    #[value(name = "q4_k_m")]
    Q4KM,
}

impl fmt::Display for MergeDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// How `merge` combines adapters; PEFT's `combination_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum CombinationName {
    /// A and B summed by elements; all of one rank
    Linear,
    /// Side by side: the exact sum, its rank the sum of the ranks
    Cat,
    /// The exact sum, cut to --rank
    Svd,
    /// Prune by size, elect signs, average what agrees
    Ties,
    /// Drop at random, rescale, sum
    DareLinear,
    /// Drop at random, then as ties
    DareTies,
    /// Prune by size, sum
    MagnitudePrune,
}

/// How signs are elected; PEFT's `majority_sign_method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MajoritySignName {
    /// The sign of the sum
    Total,
    /// The sign most adapters have
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

    /// What to write
    #[arg(long, value_enum)]
    pub format: ExportFormat,

    /// Number type of a GGUF adapter (PEFT's and mlx-lm's are f32)
    #[arg(long = "dtype", alias = "type", value_enum, default_value = "f32")]
    pub kind: GgufNumbers,

    /// Name the modules as this program does, and fail if it does not serve the adapter
    #[arg(long = "for", value_enum, value_name = "PROGRAM")]
    pub program: Option<ServerName>,

    /// Fold the scale into B (lora_alpha = r): for servers that ignore rsLoRA or patterns
    #[arg(long)]
    pub fold_scale: bool,

    /// The GGUF file, or the PEFT or mlx-lm directory
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,

    /// Print which servers take the result as one JSON object
    #[arg(long)]
    pub json: bool,

    /// Export an adapter that was trained on another base, or for a program that does not serve it; overwrite the output
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

/// Programs that `export --for` names modules for.
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
    /// A base, an adapter or a run directory
    pub path: String,

    /// Of an adapter: the base it belongs to, for the share of its weights' norms
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,

    /// Of an adapter: another one, for the cosine of what both change
    #[arg(long, value_name = "PATH")]
    pub against: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
