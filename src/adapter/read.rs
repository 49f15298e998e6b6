//! Adapters of whatever format, by what lies at a path.

use std::path::Path;

use candle_core::Device;

use super::{mlx, peft};
use crate::error::{Error, Result};
use crate::model::lora::Lora;
use crate::model::spec::DecoderSpec;

/// An adapter as read, whoever wrote it.
#[derive(Debug)]
pub struct Adapter {
    /// Its matrices, fitted to the decoder.
    pub lora: Lora,
    /// The base it was trained on, as its maker named it.
    pub base: Option<String>,
    /// Fingerprint of that base's weights, if it is known.
    pub fingerprint: Option<String>,
    /// Its format.
    pub format: Format,
}

/// Formats of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// PEFT's directory, also as Unsloth and LLaMA-Factory write it.
    Peft,
    /// mlx-lm's directory.
    Mlx,
}

/// What lies at a path, by its names alone; `None` if it is no adapter.
pub fn format_of(path: &Path) -> Option<Format> {
    if path.join(mlx::WEIGHTS).exists() && !path.join(peft::WEIGHTS).exists() {
        return Some(Format::Mlx);
    }
    path.join(peft::CONFIG).exists().then_some(Format::Peft)
}

/// Reads an adapter for a decoder; with `head`, the language-model head may be adapted too.
///
/// # Errors
/// As [`peft::read`] and [`mlx::read`].
pub fn read(path: &Path, spec: &DecoderSpec, device: &Device, head: bool) -> Result<Adapter> {
    match format_of(path) {
        Some(Format::Mlx) => mlx::read(path, spec, device),
        _ if path.is_file() => Err(Error::Adapter(format!(
            "{} is a file; an adapter is a directory as PEFT or mlx-lm writes it",
            path.display()
        ))),
        _ => {
            let peft::Adapter { lora, config, metadata } = peft::read_with(path, spec, device, head)?;
            Ok(Adapter {
                lora,
                base: config.base_model_name_or_path,
                fingerprint: metadata.get(peft::FINGERPRINT_KEY).cloned(),
                format: Format::Peft,
            })
        }
    }
}
