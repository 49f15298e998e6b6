//! Prompt completion: sampling, and decoding with cached keys and values.

mod decode;
mod sampler;
mod stream;

pub use decode::{Completion, FinishReason, Limits, Request, TOGETHER, complete, complete_all};
pub use sampler::{Sampler, SamplingConfig};
pub use stream::complete_streaming;
