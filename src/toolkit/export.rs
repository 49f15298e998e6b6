//! Adapters folded into their base, and adapters as files of other programs.

use std::path::Path;

use super::{AdapterUse, Base, Place, TrainedWith};
use crate::adapter::gguf::GgufType;
use crate::adapter::merge::gguf::GgufOptions;
use crate::adapter::merge::{self, MergeOptions, MergeReport};
use crate::adapter::{gguf, mlx};
use crate::error::Result;
use crate::files;
use crate::weights::DType;

/// The format of an exported adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportTo {
    /// A GGUF file for llama.cpp, with matrices of this type.
    Gguf(GgufType),
    /// A directory for mlx-lm.
    Mlx,
}

impl Base {
    /// Writes the base with an adapter folded into its weights: a GGUF file if `output` ends in `.gguf`, else a directory
    /// that transformers loads. It has the chat template that the adapter was trained with. The base's files stay as they
    /// are.
    ///
    /// # Errors
    /// If the adapter is another base's, or `output` is there already.
    pub fn merge(&self, adapter: impl AsRef<Path>, output: impl AsRef<Path>) -> Result<MergeReport> {
        let output = output.as_ref();
        let lora = self.adapter_for(adapter.as_ref(), AdapterUse { head: true, ..AdapterUse::default() })?;
        let scratch = files::TemporaryDirectory::new(&std::env::temp_dir())?;
        let (directory, dtype) = match &self.place {
            Place::Directory(directory) => (directory.as_path(), self.dtype),
            Place::Gguf(files) => {
                files.write(scratch.path())?;
                (scratch.path(), Some(self.dtype.unwrap_or(DType::Bf16)))
            }
        };
        let from = merge::Base { directory, source: &*self.source, spec: &self.spec };
        let template = self.template_of(&[adapter.as_ref().to_path_buf()])?;
        let chat_template = template.as_ref().map(|template| template.text.as_str());
        if output.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
            let options = GgufOptions { chat_template, ..GgufOptions::default() };
            return merge::gguf::merge(&from, &[(&lora, 1.0)], output, &options);
        }
        let options = MergeOptions { dtype, chat_template, ..MergeOptions::default() };
        merge::merge(&from, &[(&lora, 1.0)], output, &options)
    }

    /// Writes an adapter for another program.
    ///
    /// # Errors
    /// If the adapter is another base's, or the program cannot load it.
    pub fn export(&self, adapter: impl AsRef<Path>, output: impl AsRef<Path>, to: ExportTo) -> Result<()> {
        let (adapter, output, mut origin) = (adapter.as_ref(), output.as_ref(), self.origin()?);
        let lora = self.adapter_for(adapter, AdapterUse { head: true, ..AdapterUse::default() })?;
        origin.metadata.extend(TrainedWith::of_one_made_of(&[adapter.to_path_buf()])?.metadata()?);
        match to {
            ExportTo::Gguf(kind) => gguf::write(output, &lora, &self.spec, kind, &origin).map(drop),
            ExportTo::Mlx => files::write_directory(output, false, |new| {
                mlx::write(new, &lora, &self.spec, &origin).map(drop)
            }),
        }
    }
}
