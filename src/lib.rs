//! Direct Preference Optimization with LoRA: one frozen base, two policies.
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
//! | 1 | [`hub`] | files of the Hugging Face Hub, and the cache shared with Python |
//! | 2 | [`weights`] | frozen weights, mapped from safetensors |
//! | 3 | [`data`] | records, chat templates, tokens, packing, sampling |
//! | 3 | [`ops`] | differentiable operations, forward beside backward, and the matrix product |
//! | 4 | [`trainable`] | the store of what trains, and the kinds of adapters: LoRA |
//! | 5 | [`model`] | families, the decoder; `model::engine`: the decoder on a device |
//! | 5 | [`objective`] | log-probs of a pair → loss and its gradient; pure functions |
//! | 6 | [`adapter`] | PEFT directories, merging, fingerprints |
//! | 6 | [`generate`] | sampling and decoding |
//! | 7 | [`eval`] | preference accuracy, margins, rewards |
//! | 8 | [`train`] | steps, optimizers, schedules, checkpoints |
//! | 9 | [`config`] | the YAML file |
//! | 10 | [`commands`], [`cli`] | the program |
//!
//! # The loss of a pair
//!
//! ```
//! use dpo_lora::objective::{ObjectiveConfig, PairLogps};
//!
//! let objective = ObjectiveConfig::default(); // the DPO loss, beta 0.1
//! // Before the first step policy and reference are one: both rewards are 0 and the loss is ln 2.
//! let before = PairLogps { chosen: -12.0, rejected: -9.0, ref_chosen: -12.0, ref_rejected: -9.0 };
//! let found = objective.pair(&before, 1.0);
//! assert_eq!((found.reward_chosen, found.reward_rejected), (0.0, 0.0));
//! assert!((found.loss - 2f64.ln()).abs() < 1e-12);
//!
//! // 10 nats more for the chosen answer: a reward of 1, and a loss of −ln σ(1).
//! let after = PairLogps { chosen: -2.0, ..before };
//! let found = objective.pair(&after, 1.0);
//! assert!((found.margin() - 1.0).abs() < 1e-12);
//! assert!((found.loss - (1.0 + (-1f64).exp()).ln()).abs() < 1e-12);
//! ```
//!
//! # A step by hand
//!
//! The base that `dpo-lora train` runs on without a configuration, a fresh adapter, one pair, two steps of gradient
//! descent. `examples/` has the same with the [`Trainer`](train::trainer::Trainer), and `commands/` with everything.
//!
//! ```
//! use std::path::Path;
//!
//! use dpo_lora::data::{ChatTokenizer, Input, PackedBatch, records, tokenize};
//! use dpo_lora::eval::preference::pair_logps;
//! use dpo_lora::model::decoder::{Decoder, Training};
//! use dpo_lora::model::families::{self, ConfigJson};
//! use dpo_lora::model::pass::Pass;
//! use dpo_lora::objective::ObjectiveConfig;
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
//! let example = tokenize(&ChatTokenizer::load(base, None)?, &records[0])?;
//! let batch = PackedBatch::new(&[&example]); // the prompt once, both answers behind it
//!
//! let reference = decoder.logps(&batch, &adapters, Pass::Reference)?;
//! assert_eq!(decoder.logps(&batch, &adapters, Pass::Policy)?, reference); // B = 0: the same bits
//!
//! let mut losses = Vec::new();
//! for _ in 0..2 {
//!     let (policy, tape) = decoder.forward(&batch, &adapters, Training::default())?;
//!     let pair = pair_logps(&policy, &reference, 0).expect("a pair has two completions");
//!     let loss = ObjectiveConfig::default().pair(&pair, 1.0);
//!     losses.push(loss.loss);
//!     let mut slopes = vec![0.0; adapters.trained.values().len()];
//!     decoder.backward(tape, &batch, &adapters, &[loss.d_chosen, loss.d_rejected], &mut slopes)?;
//!     let step = |values: &mut [f32]| values.iter_mut().zip(&slopes).for_each(|(x, slope)| *x -= 0.05 * slope);
//!     adapters.trained.update(step);
//! }
//! assert!(losses[1] < losses[0]);
//! # Ok(())
//! # }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod generate;
pub mod hub;
pub mod model;
pub mod objective;
pub mod ops;
pub mod random;
pub mod report;
pub mod train;
pub mod trainable;
pub mod weights;
