//! Prompt completion: sampling, and decoding with cached keys and values.
//!
//! [`Rollouts`] completes many prompts, several times each, and is what rollouts and evaluations draw from.
//!
//! ```
//! use dpo_lora::generate::{Limits, Request, Rollouts};
//! use dpo_lora::model::pass::Pass;
//! use dpo_lora::reward::{Length, score};
//! use dpo_lora::trainable::Policy;
//! use dpo_lora::{Base, SamplingConfig};
//!
//! # fn main() -> dpo_lora::Result<()> {
//! let base = Base::open("tiny-reviews")?;
//! let (decoder, tokenizer, policy) = (base.decoder()?, base.tokenizer(None)?, Policy::default());
//! let texts = ["The film is", "In this drama, a"];
//! let mut requests = Vec::new();
//! for (i, text) in texts.iter().enumerate() {
//!     let sampling = SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed: 7 }.for_prompt(i);
//!     requests.push(Request { prompt: tokenizer.encode(text, true)?, sampling, completions: 4 });
//! }
//! let limits = Limits { max_new_tokens: 24, eos: base.eos(&tokenizer), stop: Vec::new() };
//! let side = (&policy, Pass::Reference);
//! let prompts = requests.clone();
//! for group in Rollouts::new(&decoder, &tokenizer, requests, side, &limits)?.by_request() {
//!     let group = group?; // the four completions of a prompt
//!     let rewards = score(&mut Length, &group, |i| (texts[i], &prompts[i].prompt))?;
//!     for (completion, reward) in group.iter().zip(rewards) {
//!         assert_eq!(completion.logps.len(), completion.drawn().len());
//!         assert_eq!(reward, completion.text.chars().count() as f64);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod completion;
mod groups;
mod growing;
mod rollouts;
mod sampler;
mod sequences;
mod stream;

pub use completion::{Completion, FinishReason, Limits, Request};
pub use groups::Groups;
pub use rollouts::{Rollouts, complete, complete_all};
pub use sampler::{Drawn, Sampler, SamplingConfig};
pub use stream::complete_streaming;
