//! Adapter files: read, written, merged, exported, looked into.

pub mod fingerprint;
pub mod gguf;
mod gguf_writer;
pub mod merge;
pub mod peft;
#[cfg(test)]
mod testing;
