//! The schemas of preference data: which columns a row has and what they mean.
//!
//! `table.rs` lists every schema with its columns, in the order in which they are tried. One file per family reads the
//! rows. Afterwards `lost.rs`, `rivals.rs`, `unread.rs`
//! and `contradictions.rs` look at the columns that nothing has read.

mod answers;
mod contradictions;
mod dialogue;
mod draft;
mod encoded;
mod graded;
mod judgements;
mod lost;
mod name;
mod preference;
mod prompt;
mod rankings;
mod repeats;
mod rivals;
mod sharegpt;
mod table;
mod transcripts;
mod triples;
mod unread;
mod weights;

pub use name::Schema;
pub use table::required_columns;

pub(super) use draft::Draft;
pub(super) use prompt::prompt;
pub(super) use table::read;
pub(super) use unread::may_be_content;
