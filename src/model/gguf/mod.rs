//! A base in a GGUF file. Its metadata become the `config.json` that its family reads, and its tensors appear under the
//! names and in the layout of transformers' model. Weights stay quantised, in the mapped file.

mod config;
mod gemma;
mod keys;
mod names;
mod rope;
mod sizes;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::families::{self, ConfigJson};
use super::spec::DecoderSpec;
use crate::error::{Error, Result};
use crate::weights::gguf::GgufFile;

pub use source::GgufSource;

/// A base read from a GGUF file.
#[derive(Debug)]
pub struct GgufModel {
    /// The file, for its tokenizer.
    pub file: Arc<GgufFile>,
    /// The `config.json` that corresponds to the metadata.
    pub config: Map<String, Value>,
    /// The architecture.
    pub spec: DecoderSpec,
    /// The tensors.
    pub source: GgufSource,
}

impl GgufModel {
    /// Maps a file and determines its architecture and tensors.
    ///
    /// # Errors
    /// If the file is damaged, has an unknown architecture, or holds tensors that the architecture does not have.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Arc::new(GgufFile::open(path)?);
        let architecture = config::architecture(&file)?;
        let mut config = config::read(&file, architecture)?;
        if architecture.divides {
            rope::recover(&file, &mut config, |config| spec(&file, config))?;
        }
        let spec = spec(&file, &config)?;
        let tensors = names::tensors(&spec, architecture.permutes);
        let settings: &[&str] = if architecture.divides { &[rope::TENSOR] } else { &[] };
        let source = GgufSource::new(file.clone(), tensors, settings)?;
        Ok(Self { file, config, spec, source })
    }
}

fn spec(file: &GgufFile, config: &Map<String, Value>) -> Result<DecoderSpec> {
    let origin = format!("{} (its metadata as config.json)", file.path().display());
    let text = serde_json::to_string(config).map_err(|e| Error::Model(format!("{origin}: {e}")))?;
    families::spec(&ConfigJson::parse(&text, &origin)?)
}
