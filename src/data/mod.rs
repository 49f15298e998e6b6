//! Preference data: from files to packed token rows.
//!
//! One way through, a type for each station:
//!
//! 1. [`Sources`] (YAML) → [`source::resolve`] → [`Input`]s → [`Row`]s: files and where each record stands in them.
//! 2. [`Record::parse`]: a row becomes a pair of strings or of conversations, or an error that names file, line, field,
//!    value and remedy.
//! 3. [`ChatTokenizer`]: `tokenizer.json`, the special tokens and the [`ChatTemplate`], as transformers reads them.
//! 4. [`tokenize_all`]: records → [`Example`]s of token ids, truncated as pairs; what was dropped is told.
//! 5. [`Sampler`]: which examples come next, resumable and sharded by rank.
//! 6. [`PackedBatch`]: examples → prefix trees in one row of tokens, without padding.

pub mod config;
pub mod example;
pub mod format;
pub mod gguf;
mod guarded;
pub mod jinja;
pub mod messages;
pub mod pack;
pub mod records;
pub mod sampler;
pub mod shuffle;
pub mod source;
pub mod split;
pub mod template;
pub mod tokenize;
pub mod tokenizer;
pub mod truncate;

pub use config::{DataConfig, EvalSource, Sources};
pub use example::{Example, Origin};
pub use messages::Message;
pub use pack::{PackedBatch, Tree};
pub use records::{Pair, Record};
pub use sampler::{Sampler, SamplerState};
pub use source::{Input, Row};
pub use split::hold_out;
pub use template::{ChatTemplate, RenderOptions};
pub use tokenize::{Dropped, Tokenized, check_positions, check_vocab, tokenize, tokenize_all};
pub use tokenizer::ChatTokenizer;
pub use truncate::{Truncation, TruncationMode};
