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
//! | 2 | [`objective`] | scored completions → loss, gradient, rewards; pure functions |
//! | 3 | [`data`] | records, chat templates, tokens, packing, sampling |
//! | 3 | [`ops`] | differentiable operations, forward beside backward, and the matrix product |
//! | 4 | [`model`] | families, the decoder, LoRA; `model::engine`: the decoder on a device |
//! | 5 | [`adapter`] | PEFT directories, merging, fingerprints |
//! | 5 | [`generate`] | sampling and decoding |
//! | 6 | [`eval`] | preference accuracy, margins, rewards |
//! | 7 | [`train`] | steps, optimizers, schedules, checkpoints |
//! | 8 | [`config`] | the YAML file |
//! | 9 | [`commands`], [`cli`] | the program |
//!
//! # The loss of a pair
//!
//! ```
//! use dpo_lora::objective::{Objective, Role, Scored};
//!
//! # fn main() -> Result<(), dpo_lora::error::Error> {
//! let objective = Objective::default(); // the DPO loss, beta 0.1
//! let scored = |role, logp| Scored { group: 0, role, label: 1.0, logp, ref_logp: Some(logp), tokens: 4 };
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
//! descent. `examples/` has the same with the [`Trainer`](train::trainer::Trainer), and `commands/` with everything.
//!
//! ```
//! use std::path::Path;
//!
//! use candle_core::Device;
//! use dpo_lora::data::{ChatTokenizer, Input, PackedBatch, records, tokenize};
//! use dpo_lora::model::decoder::{Decoder, Training};
//! use dpo_lora::model::families::{self, ConfigJson};
//! use dpo_lora::model::lora::{Lora, Slot};
//! use dpo_lora::model::pass::Pass;
//! use dpo_lora::objective::Objective;
//! use dpo_lora::weights::SafetensorsSource;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = Path::new("examples/tiny-reviews/model");
//! let spec = families::spec(&ConfigJson::open(base)?)?;
//! let mut decoder = Decoder::load(spec, &SafetensorsSource::open(base)?, None, &Device::Cpu)?;
//! let (rank, alpha) = (4, 8.0);
//! let slots = decoder.spec().linears().map(|linear| Slot::new(linear, rank, alpha, alpha / rank as f64));
//! decoder.trained = Some(Lora::initialised(slots.collect(), 42, &Device::Cpu)?);
//!
//! let line = r#"{"prompt": "The film is", "chosen": " a delight.", "rejected": " a bore."}"#;
//! let records = records::load(&[Input::text("memory", line)])?;
//! let example = tokenize(&ChatTokenizer::load(base, None)?, &records[0])?;
//! let batch = PackedBatch::new(&[&example]); // the prompt once, both answers behind it
//!
//! let reference = decoder.logps(&batch, Pass::Reference)?;
//! assert_eq!(decoder.logps(&batch, Pass::Policy)?, reference); // B = 0: the same bits
//!
//! let mut losses = Vec::new();
//! for _ in 0..2 {
//!     let (policy, tape) = decoder.forward(&batch, Training::default())?;
//!     let found = Objective::default().weigh(&batch.scored_completions(&policy, Some(&reference))?)?;
//!     losses.push(found.losses[0]);
//!     let lora = decoder.trained.as_ref().expect("it was set above");
//!     let mut gradient = vec![0.0; lora.values().len()];
//!     decoder.backward(tape, &batch, &found.d_logps, &mut gradient)?;
//!     let lora = decoder.trained.as_mut().expect("it was set above");
//!     lora.update(|values| values.iter_mut().zip(&gradient).for_each(|(value, slope)| *value -= 0.05 * slope))?;
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
pub mod weights;
