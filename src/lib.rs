//! Direct Preference Optimization with LoRA: one frozen base, two policies.
//!
//! ```
//! use dpo_lora::{Base, LoraConfig, TrainConfig, Trainer};
//!
//! # fn main() -> dpo_lora::Result<()> {
//! # let place = tempfile::tempdir().map_err(dpo_lora::Error::write("."))?;
//! # let runs = place.path();
//! let base = Base::open("tiny-reviews")?; // or a directory, a .gguf file, "Qwen/Qwen2.5-0.5B-Instruct"
//! let trained = Trainer::builder(&base, base.pairs("tiny-reviews/train.jsonl")?)
//!     .lora(LoraConfig { r: 8, ..LoraConfig::default() })
//!     .dpo(0.1)
//!     .training(TrainConfig { max_steps: Some(20), learning_rate: 2e-3, ..TrainConfig::default() })
//!     .output(runs.join("first"))
//!     .run()?;
//! let adapted = base.with_adapter(&trained.adapter)?;
//! let found = adapted.evaluate(&base.pairs("tiny-reviews/eval.jsonl")?)?;
//! assert!(found.accuracy() > Some(0.7));
//! base.merge(&trained.adapter, runs.join("merged"))?; // a model that transformers loads
//! # assert!(runs.join("merged/model.safetensors").is_file());
//! # Ok(())
//! # }
//! ```
//!
//! The names at the crate's root are what a program needs. The modules below are open for tools and tests, and may change.
//!
//! The base's weights never change. With the adapter they are the trainable policy π_θ, without it the reference π_ref, so
//! there is one model in memory. [`Pass`](model::pass::Pass) says which of the two a forward pass computes.
//!
//! # The way of the data
//!
//! ```text
//! YAML ─ config::RunConfig
//! files ─ data::Record ─ data::Example (token ids) ─ data::PackedBatch (prefix trees in one row, no padding)
//!   ─ model::decoder::Decoder (policy or reference) ─ one log-prob a completion
//!   ─ objective (loss, rewards, gradient) ─ Decoder::backward ─ train::optimizer ─ adapter::peft
//! ```
//!
//! # The rooms
//!
//! Each room imports those of lower rank only.
//!
//! | rank | room | what it knows |
//! |---|---|---|
//! | 0 | [`error`], [`files`], [`random`] | errors with remedies; files that appear whole; named random streams |
//! | 1 | [`report`] | events of a run and where they go: console, JSON lines, TensorBoard |
//! | 1 | [`device`] | buffers, kernels and products of an NVIDIA GPU, behind one trait |
//! | 1 | [`ranks`] | processes that train together, over MPI or TCP |
//! | 1 | [`http`] | connections, and tokens that are never shown |
//! | 2 | [`hub`] | files of the Hugging Face Hub, and the cache shared with Python |
//! | 2 | [`weights`] | frozen weights, mapped from safetensors |
//! | 2 | [`objective`] | scored completions → loss, gradient, rewards; pure functions |
//! | 3 | [`data`] | records, chat templates, tokens, packing, sampling |
//! | 3 | [`ops`] | differentiable operations, forward beside backward, and the matrix product |
//! | 4 | [`trainable`] | the store of what trains, and the kinds of adapters: LoRA |
//! | 5 | [`model`] | families, the decoder; `model::engine`: the decoder on a device |
//! | 6 | [`adapter`] | PEFT directories, merging, fingerprints |
//! | 6 | [`generate`] | sampling and decoding |
//! | 7 | [`collect`] | votes of people, and one label from several |
//! | 7 | [`eval`] | accuracy, margins, rewards; win rates, frontiers, learning curves, calibration |
//! | 7 | [`judge`] | an endpoint that compares answers, and its transcript |
//! | 7 | [`reward`] | what a completion is worth: length, patterns, programs, adapters |
//! | 8 | [`train`] | steps, optimizers, schedules, checkpoints |
//! | 9 | [`config`] | the YAML file |
//! | 10 | [`toolkit`] | what a program uses: [`Base`], [`Trainer`], [`Adapted`] |
//! | 11 | `commands`, `cli` | the command line |
//!
//! # The loss of a pair
//!
//! ```
//! use dpo_lora::objective::{Objective, Role, Scored};
//!
//! # fn main() -> Result<(), dpo_lora::error::Error> {
//! let objective = Objective::default(); // the DPO loss, beta 0.1
//! let scored = |role, logp| Scored { group: 0, role, label: 1.0, margin: 0.0, logp, ref_logp: Some(logp), tokens: 4 };
//! // Before the first step policy and reference are one: both rewards are 0 and the loss is ln 2.
//! let mut pair = [scored(Role::Chosen, -12.0), scored(Role::Rejected, -9.0)];
//! let before = objective.weigh(&pair)?;
//! assert_eq!(objective.reward(&pair[0]), Some(0.0));
//! assert!((before.losses[0] - 2f64.ln()).abs() < 1e-12);
//!
//! // 10 nats more for the chosen answer: a reward of 1, and a loss of −ln σ(1).
//! pair[0].logp += 10.0;
//! let after = objective.weigh(&pair)?;
//! assert_eq!(objective.reward(&pair[0]), Some(1.0));
//! assert!((after.losses[0] - (1.0 + (-1f64).exp()).ln()).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```
//!
//! # A step by hand
//!
//! The base that `dpo-lora train` runs on without a configuration, a fresh adapter, one pair, two steps of gradient
//! descent, from the parts that [`Trainer`] puts together.
//!
//! ```
//! use std::path::Path;
//!
//! use dpo_lora::data::{ChatTokenizer, Input, PackedBatch, records, tokenize};
//! use dpo_lora::model::decoder::{Decoder, Training};
//! use dpo_lora::model::families::{self, ConfigJson};
//! use dpo_lora::model::pass::Pass;
//! use dpo_lora::objective::Objective;
//! use dpo_lora::trainable::{Adapters, Lora, Policy};
//! use dpo_lora::weights::SafetensorsSource;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = Path::new("examples/tiny-reviews/model");
//! let spec = families::spec(&ConfigJson::open(base)?)?;
//! let decoder = Decoder::load(spec, &SafetensorsSource::open(base)?, None)?;
//! let (rank, alpha) = (4, 8.0);
//! let modules = decoder.spec().linears().map(|linear| Lora::new(linear, rank, alpha, alpha / rank as f64));
//! let mut adapters = Policy::of(Adapters::initialised(modules, 42)?);
//!
//! let line = r#"{"prompt": "The film is", "chosen": " a delight.", "rejected": " a bore."}"#;
//! let records = records::load(&[Input::text("memory", line)])?;
//! let example = tokenize(&ChatTokenizer::load(base, None)?, &records[0])?.example;
//! let batch = PackedBatch::new(&[&example]); // the prompt once, both answers behind it
//!
//! let reference = decoder.logps(&batch, &adapters, Pass::Reference)?;
//! assert_eq!(decoder.logps(&batch, &adapters, Pass::Policy)?, reference); // B = 0: the same bits
//!
//! let mut losses = Vec::new();
//! for _ in 0..2 {
//!     let (policy, tape) = decoder.forward(&batch, &adapters, Training::default())?;
//!     let found = Objective::default().weigh(&batch.scored_completions(&policy, Some(&reference))?)?;
//!     losses.push(found.losses[0]);
//!     let mut slopes = vec![0.0; adapters.trained.values().len()];
//!     decoder.backward(tape, &batch, &adapters, &found.d_logps, &mut slopes)?;
//!     let step = |values: &mut [f32]| values.iter_mut().zip(&slopes).for_each(|(x, slope)| *x -= 0.05 * slope);
//!     adapters.trained.update(step);
//! }
//! assert!(losses[1] < losses[0]);
//! # Ok(())
//! # }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
mod cli;
pub mod collect;
mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod generate;
pub mod http;
pub mod hub;
pub mod judge;
pub mod model;
pub mod objective;
pub mod ops;
pub mod random;
pub mod ranks;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod toolkit;
pub mod train;
pub mod trainable;
pub mod weights;

pub use config::RunConfig;
pub use data::{Example, Record};
pub use error::{Error, Result};
pub use eval::preference::Evaluation;
pub use generate::SamplingConfig;
pub use model::config::LoraConfig;
pub use objective::{Loss, Objective, Scored};
pub use toolkit::{Adapted, Base, ExportTo, OpenOptions, Pairs, Trained, Trainer, TrainerBuilder};
pub use train::config::TrainConfig;

/// Runs the program with the arguments of the process.
///
/// # Errors
/// Any failure to do what was asked; [`Error::exit_code`] is its exit status.
pub fn main() -> Result<()> {
    commands::run(&<cli::Cli as clap::Parser>::parse())
}

/// The definition of the command line.
#[doc(hidden)]
pub fn command_line() -> clap::Command {
    <cli::Cli as clap::CommandFactory>::command()
}
