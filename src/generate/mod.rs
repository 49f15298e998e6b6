//! Prompt completion: sampling, and decoding with cached keys and values.

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
