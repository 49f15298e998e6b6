//! What is checked of a base before its weights are read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::adapter::peft;
use crate::error::{Error, Problems, Result};
use crate::model::inventory;
use crate::model::spec::DecoderSpec;
use crate::weights::{SafetensorsSource, WeightSource};

/// The files beside the weights that are read if a base has them.
const FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    TOKENIZER,
];
const TOKENIZER: &str = "tokenizer.json";
/// Those that are read in place of `tokenizer.json`.
const VOCABULARIES: &[&str] = &["tekken.json", "tokenizer.model", "vocab.json", "merges.txt"];

/// Refuses files of a base that are there in name only, or with a mark that no reader of JSON expects; all are named.
pub(super) fn is_fetched(directory: &Path) -> Result<()> {
    let has_tokenizer = directory.join(TOKENIZER).symlink_metadata().is_ok();
    let others = VOCABULARIES.iter().filter(|_| !has_tokenizer);
    let mut problems = Problems::default();
    for name in FILES.iter().chain(others) {
        let path = directory.join(name);
        let (shown, begins) = (path.display(), beginning(&path));
        if let (Ok(to), false) = (std::fs::read_link(&path), path.exists()) {
            let to = to.display();
            problems
                .add(format!("{shown} is a link to {to}, where there is no file; download or copy it again"));
        }
        problems.require(!SafetensorsSource::is_pointer(&begins), || {
            format!("{shown} is a Git LFS pointer, not the file; fetch it with git lfs pull")
        });
        problems.require(!name.ends_with(".json") || !begins.starts_with("\u{feff}".as_bytes()), || {
            format!("{shown} begins with a byte-order mark, which is not JSON; save it as UTF-8 without one")
        });
    }
    problems.finish()
}

/// The first bytes of a file; none if it cannot be read, which is told where it is needed.
fn beginning(path: &Path) -> Vec<u8> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(64).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().unwrap_or_default()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_there_in_name_only_are_told_together() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
        write("config.json", "{}");
        write("tokenizer.json", "{}");
        // Neither is read.
        write("tokenizer.model", pointer);
        write("README.md", pointer);
        is_fetched(place.path()).unwrap();
        write("config.json", "\u{feff}{}");
        write("tokenizer.json", pointer);
        #[cfg(unix)]
        std::os::unix::fs::symlink("gone", place.path().join("generation_config.json")).unwrap();
        let error = is_fetched(place.path()).unwrap_err().to_string();
        for part in [
            "config.json begins with a byte-order mark",
            "tokenizer.json is a Git LFS pointer, not the file; fetch it with git lfs pull",
            #[cfg(unix)]
            "generation_config.json is a link to gone, where there is no file",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        std::fs::remove_file(place.path().join("tokenizer.json")).unwrap();
        assert!(is_fetched(place.path()).unwrap_err().to_string().contains("tokenizer.model is a Git LFS"));
    }
}
