//! Adapter files: read, written, merged, compared.

pub mod peft;
