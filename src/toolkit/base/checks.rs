//! What is checked of a base before its weights are read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::adapter::peft;
use crate::error::{Error, Problems, Result};
use crate::model::inventory;
use crate::model::spec::DecoderSpec;
use crate::weights::{FrozenWeight, SafetensorsSource, WeightSource};

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

/// The number of matrices that a message names.
const MOST_NAMED: usize = 8;

/// Warns of matrices that hold nothing but zeros, as a file that was allocated and not filled has them: no signal passes through
/// them. A model may have some, such as pruned layers, or added ones that are still to be trained.
///
/// # Errors
/// If there is no other matrix, unless `force` is given.
pub(super) fn hold_numbers(spec: &DecoderSpec, source: &dyn WeightSource, force: bool) -> Result<()> {
    let modules = spec.linears().chain(&spec.head).map(|linear| &linear.module);
    let modules = modules.chain(spec.positions.iter().map(|positions| &positions.module));
    let mut names = vec![inventory::embedding(spec, source)];
    names.extend(modules.map(|module| format!("{module}.weight")));
    let stored = |name: &String| spec.stored_name(name, |name| source.shape(name).is_some());
    let names: Vec<String> = names.iter().map(stored).collect();
    // What cannot be read is told of where it is needed.
    let empty = |name: &&String| source.get(name).is_ok_and(|weight| is_zero(&weight));
    let zeros: Vec<&str> = names.iter().filter(empty).map(String::as_str).collect();
    if zeros.is_empty() {
        return Ok(());
    }
    let more = match zeros.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = format!("{}{more}", zeros[..zeros.len().min(MOST_NAMED)].join(", "));
    let (count, all, place) = (zeros.len(), names.len(), source.describe());
    if count == all && !force {
        return Err(Error::Weights(format!(
            "every matrix of {place} holds nothing but zeros ({named}), as in a file that was allocated and never filled; \
             download or convert the model again, or insist with --force"
        )));
    }
    log::warn!(
        "{count} of {all} matrices of {place} hold nothing but zeros: {named}; unless the model is meant to be so (pruned or \
         newly added layers), the file is not complete: download or convert it again"
    );
    Ok(())
}

/// Whether a matrix holds nothing but zeros. Of most matrices one row is read.
fn is_zero(weight: &FrozenWeight) -> bool {
    let (elements, width) = (weight.elements(), weight.shape().last().copied().unwrap_or(0));
    let rows = elements.len().checked_div(width).unwrap_or(0);
    let is_empty =
        |row: usize| elements.slice(row * width..(row + 1) * width).to_f32().iter().all(|x| *x == 0.0);
    rows > 0 && (0..rows).all(is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::families::{self, ConfigJson};
    use crate::weights::DType;

    /// Fills the tensors of a safetensors file whose name `is_meant` with zeros; returns their number.
    fn clear(path: &Path, is_meant: &dyn Fn(&str) -> bool) -> usize {
        let mut bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let tensors = header.as_object().unwrap().iter();
        let meant = tensors.filter(|(name, _)| *name != "__metadata__" && is_meant(name.as_str()));
        let mut count = 0;
        for (_, tensor) in meant {
            let at = |i: usize| 8 + length + tensor["data_offsets"][i].as_u64().unwrap() as usize;
            bytes[at(0)..at(1)].fill(0);
            count += 1;
        }
        std::fs::write(path, bytes).unwrap();
        count
    }

    #[test]
    fn a_base_of_zeros_is_refused_and_single_matrices_and_biases_of_zeros_are_not() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/gpt2");
        let place = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(name), place.path().join(name)).unwrap();
        }
        let spec = families::spec(&ConfigJson::open(place.path()).unwrap()).unwrap();
        let check = |force: bool| {
            hold_numbers(&spec, &SafetensorsSource::open(place.path()).unwrap(), force)
                .map_err(|error| error.to_string())
        };
        let weights = place.path().join("model.safetensors");
        assert!(clear(&weights, &|name| name.ends_with(".bias")) > 0);
        check(false).unwrap();
        assert!(clear(&weights, &|name| name.contains("h.0.")) > 0);
        check(false).unwrap();
        assert!(clear(&weights, &|_| true) > 0);
        let error = check(false).unwrap_err();
        for words in ["holds nothing but zeros", "wte.weight", "more", "--force"] {
            assert!(error.contains(words), "{words} in {error}");
        }
        check(true).unwrap();
    }

    #[test]
    fn zeros_are_found_in_every_type() {
        let weight = |numbers: &[f32]| FrozenWeight::from_f32(numbers.to_vec(), &[2, 2]).unwrap();
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            assert!(is_zero(&weight(&[0.0, -0.0, 0.0, 0.0]).to_dtype(dtype)));
            assert!(!is_zero(&weight(&[0.0, 0.0, 0.0, 1.0]).to_dtype(dtype)));
        }
    }

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
