//! GGUF, versions 2 and 3: ggml's container of metadata and tensors
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! No claim of a file is trusted before it is checked against the file's size: counts, lengths, offsets and nesting are
//! checked while the header is read once. Text and arrays stay where they are in the mapped file.
//!
//! ```no_run
//! # fn main() -> dpo_lora::error::Result<()> {
//! let file = dpo_lora::weights::gguf::GgufFile::open("model.gguf".as_ref())?;
//! println!("{}", file.metadata().text("general.architecture")?.unwrap_or("?"));
//! for tensor in file.tensors() {
//!     println!("{} {} {:?}", tensor.name, tensor.kind, tensor.shape);
//! }
//! let first_two = file.rows_to_f32("token_embd.weight", 0..2)?; // dequantised, row-major
//! # Ok(())
//! # }
//! ```

mod cursor;
mod file;
mod header;
mod kind;
mod metadata;

pub use file::GgufFile;
pub use header::{GgufTensor, Header};
pub use kind::GgmlType;
pub use metadata::{Array, Metadata, Value};

#[cfg(test)]
mod tests;
