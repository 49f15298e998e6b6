//! What is checked of a base before its weights are read.

use std::path::Path;

use crate::adapter::peft;
use crate::error::{Error, Result};
use crate::model::inventory;
use crate::model::spec::DecoderSpec;
use crate::weights::WeightSource;

/// Checks that a directory holds a base; the error names what is missing.
pub(super) fn is_base(name: &str, directory: &Path) -> Result<()> {
    if directory.join("config.json").exists() {
        return Ok(());
    }
    Err(Error::Config(if directory.join(peft::CONFIG).exists() {
        format!(
            "{name} is an adapter, not a base; name it with --adapter, and the base it was trained on as the base"
        )
    } else {
        format!(
            "{name} holds no config.json; a base is a directory with config.json, tokenizer.json and safetensors \
             weights, or a .gguf file"
        )
    }))
}

/// Refuses a directory that holds a base and an adapter: transformers would compute with both.
pub(super) fn is_no_adapter(name: &str, directory: &Path, force: bool) -> Result<()> {
    if !directory.join(peft::CONFIG).exists() {
        return Ok(());
    }
    let said = format!(
        "{name} holds a base (config.json) and an adapter ({}), which transformers loads together; move the adapter to a \
         directory of its own and name it with --adapter",
        peft::CONFIG
    );
    if force {
        log::warn!("{said}; the base alone is used");
        return Ok(());
    }
    Err(Error::Config(said))
}

/// The spec as the checkpoint has it. Tensors that nobody reads are refused; with `force` they are warned of.
pub(super) fn understood(spec: DecoderSpec, source: &dyn WeightSource, force: bool) -> Result<DecoderSpec> {
    let mut spec = inventory::settled(spec, source)?;
    if !force {
        inventory::check(&spec, source)?;
        return Ok(spec);
    }
    if let Some(head) = inventory::differing_head(&spec, source)?.filter(|_| spec.head.is_none()) {
        log::warn!(
            "{head} differs from the embedding, which config.json ties it to; the stored head is used"
        );
        spec.head = Some(spec.head_linear());
    }
    let strangers = inventory::strangers(&spec, source)?;
    if !strangers.is_empty() {
        log::warn!("{}: {}", source.describe(), inventory::unread(&strangers, &spec.model_type));
        spec.ignored.extend(strangers);
    }
    Ok(spec)
}
