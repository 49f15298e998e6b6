//! mlx-lm's adapters: `adapter_config.json` beside `adapters.safetensors` (mlx-lm 0.31, `mlx_lm/tuner`).
//!
//! A module's matrices multiply from the right: `<module>.lora_a [in, r]` and `<module>.lora_b [r, out]`, the transposes of
//! PEFT's. All modules have the same `scale` and `rank`.

mod read;
mod write;

pub use read::read;
pub use write::{MlxReport, write};

/// The weights' file name.
pub const WEIGHTS: &str = "adapters.safetensors";
/// The configuration's file name, the same as PEFT's.
const CONFIG: &str = "adapter_config.json";
