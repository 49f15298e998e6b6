//! Adapter files: reading, writing, combining, merging, exporting and inspecting them.

pub mod compose;
pub mod fingerprint;
pub mod gguf;
mod gguf_writer;
pub mod head;
pub mod inspect;
pub mod layout;
pub mod merge;
pub mod mlx;
mod names;
pub mod peft;
pub mod read;
pub mod servers;
#[cfg(test)]
mod testing;
pub mod twin;
