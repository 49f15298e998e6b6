//! Preference data: from files to packed token rows.
//!
//! There is one pipeline, with one type per stage:
//!
//! 1. [`Sources`] (YAML) → [`source::resolve`] → [`Input`]s → [`Row`]s: files, and the origin of each record in them.
//! 2. [`RecordReader`]: filters rows, renames their columns, recognises their [`Schema`], and turns them into a prompt
//!    with its answers (strings or conversations), or returns an error that names file, line, field, value and remedy.
//! 3. [`ChatTokenizer`]: `tokenizer.json`, the special tokens and the [`ChatTemplate`], read like transformers does.
//! 4. [`Ingest`]: streams records → [`Example`]s of token ids, truncated as pairs, into a [`Dataset`] in memory or in a
//!    mapped file. What a user should know of them is among its [`Findings`].
//! 5. [`Sampler`]: chooses the next examples; resumable and sharded by rank.
//! 6. [`PackedBatch`]: examples → prefix trees in one row of tokens, without padding.

pub mod canonical;
pub mod cases;
mod cells;
pub mod check;
mod columns;
pub mod config;
pub mod content;
pub mod dataset;
pub mod doubt;
pub mod example;
mod fields;
pub mod filter;
pub mod findings;
pub mod format;
pub mod gguf;
mod guarded;
pub mod ingest;
pub mod jinja;
pub mod messages;
pub mod mixture;
pub mod pack;
pub mod records;
mod rendered;
pub mod sampler;
pub mod schema;
pub mod show;
pub mod shuffle;
pub mod source;
pub mod sources;
mod speakers;
pub mod split;
pub mod template;
pub mod tokenize;
pub mod tokenizer;
pub mod truncate;
mod wanted;

pub use columns::Columns;
pub use config::DataConfig;
pub use dataset::Dataset;
pub use example::{Example, Kind, Origin};
pub use filter::Filter;
pub use findings::{Findings, OnError};
pub use ingest::{Feed, Ingest};
pub use messages::Message;
pub use pack::{PackedBatch, Tree};
pub use records::{Content, Record, RecordReader};
pub use sampler::{Sampler, SamplerState};
pub use schema::Schema;
pub use source::{Input, Row};
pub use sources::{DataSource, EvalSource, Sources};
pub use split::hold_out;
pub use template::{ChatTemplate, RenderOptions};
pub use tokenize::{Tokenized, check_positions, check_vocab, tokenize};
pub use tokenizer::ChatTokenizer;
pub use truncate::{Truncation, TruncationMode};
pub use wanted::Wanted;
