//! Adapter files: read, written, merged, exported, looked into.

pub mod fingerprint;
pub mod gguf;
mod gguf_writer;
pub mod inspect;
pub mod merge;
mod names;
pub mod peft;
mod symmetric;
#[cfg(test)]
mod testing;
