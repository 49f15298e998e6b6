//! Adapter files: read, written, merged, exported, looked into.

pub mod fingerprint;
pub mod merge;
pub mod peft;
#[cfg(test)]
mod testing;
