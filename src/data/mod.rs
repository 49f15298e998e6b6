//! Preference data: from files to packed token rows.
//!
//! One way through, a type for each station:
//!
//! 1. [`Sources`] (YAML) → [`source::resolve`] → [`Input`]s → [`Row`]s: files and where each record stands in them.
//! 2. [`Record::parse`]: a row becomes a pair of strings or of conversations, or an error that names file, line, field,
//!    value and remedy.

pub mod config;
pub mod example;
pub mod format;
pub mod messages;
pub mod records;
pub mod source;
pub mod truncate;

pub use config::{DataConfig, EvalSource, Sources};
pub use example::{Example, Origin};
pub use messages::Message;
pub use records::{Pair, Record};
pub use source::{Input, Row};
pub use truncate::{Truncation, TruncationMode};
