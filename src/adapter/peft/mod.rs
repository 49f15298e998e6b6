//! PEFT directories: `adapter_config.json` beside `adapter_model.safetensors` (PEFT 0.21, `peft/tuners/lora`).
//!
//! Prefix tuning and adapter layers have files of their own; a module's low-rank matrices are
//! `base_model.model.<module>.lora_A.weight [r, in]` and `.lora_B.weight [out, r]`. PEFT ignores wrong names and incomplete
//! pairs silently; here they are errors.

mod config;
mod keys;
mod layers;
mod mistyped;
mod pairs;
mod place;
mod prefix;
mod read;
mod select;
mod whole;
mod write;

pub use config::{Accepted, Nature, PeftConfig};
pub use prefix::{of as prefixes, projected as projected_prefixes};
pub use read::{Adapter, Reading, metadata, read, read_alone, read_for};
pub(super) use write::serialized;
pub use write::{FINGERPRINT_KEY, Origin, REVISION_KEY, config, write, write_named};

/// The configuration's file name.
pub const CONFIG: &str = "adapter_config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
