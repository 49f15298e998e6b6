//! Arguments of `collect`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ModelArgs, positive, probability, temperature};

/// Which question comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// The pair whose answers the adapter's rewards tell apart least
    Uncertainty,
    /// The pair about which annotators, or the votes and the adapter, disagree most
    Disagreement,
    /// In a random order
    Random,
}

/// Arguments of `collect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dpo-lora collect prompts.jsonl --base models/base --adapter runs/a --output pairs.jsonl\n\n\
    Keys: 1 or 2 (that answer is better), = (equally good), s (skip), q (stop). Each vote is kept at once; the same command \
    goes on."
)]
pub struct CollectArgs {
    /// File with prompts: one per line, or one JSON object with a `prompt` per line
    #[arg(value_name = "PROMPTS")]
    pub prompts: PathBuf,

    /// The model that answers.
    #[command(flatten)]
    pub model: ModelArgs,

    /// The preference pairs to write; votes and samples are kept beside it
    #[arg(short, long, value_name = "FILE.jsonl")]
    pub output: PathBuf,

    /// Which question comes next
    #[arg(long, value_name = "STRATEGY", default_value = "random")]
    pub strategy: StrategyName,

    /// Who votes; several people can vote into one output, one after the other
    #[arg(long, value_name = "NAME", default_value = "me")]
    pub annotator: String,

    /// Stop after N votes
    #[arg(long, value_name = "N", value_parser = positive)]
    pub votes: Option<usize>,

    /// Maximum number of tokens of an answer
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive)]
    pub max_new_tokens: usize,

    /// Sampling temperature of the answers
    #[arg(long, value_name = "T", default_value = "1", value_parser = temperature)]
    pub temperature: f64,

    /// Sample from the most likely tokens with a total probability of P
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f64>,

    /// Random seed for sampling and for the order
    #[arg(long, value_name = "N", default_value = "42")]
    pub seed: u64,

    /// Send prompts as user messages of the chat template [default: if the model has one]
    #[arg(long, overrides_with = "no_chat")]
    pub chat: bool,

    /// Send prompts as they are, without a chat template
    #[arg(long, overrides_with = "chat")]
    pub no_chat: bool,

    /// Write the pairs from the existing votes without asking anything
    #[arg(long)]
    pub no_ask: bool,

    /// Print a JSON object with what was collected and what was in conflict
    #[arg(long)]
    pub json: bool,
}

impl CollectArgs {
    /// The choice of `--chat` or `--no-chat`; `None` leaves it to the model.
    pub fn chat(&self) -> Option<bool> {
        (self.chat || self.no_chat).then_some(self.chat)
    }
}
