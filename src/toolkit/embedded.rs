//! The embedded default: a tiny base and its preference pairs, unpacked into the cache when first named.

use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::error::{Error, Result, nearest};
use crate::files;

/// Its name as a base, and the first part of its files' names.
pub const NAME: &str = "tiny-reviews";

/// The quickstart's configuration.
pub const QUICKSTART: &str = include_str!("../../configs/quickstart.yaml");

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../examples/tiny-reviews/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
    "train.jsonl",
    "eval.jsonl",
    "prompts.jsonl",
    "reward.json",
];

/// Returns the unpacked path of `tiny-reviews` (the base) or `tiny-reviews/FILE`; `None` for any other name, and for a
/// path that exists in the working directory.
///
/// # Errors
/// If it cannot be unpacked.
pub fn path(name: &str) -> Result<Option<PathBuf>> {
    if Path::new(name).exists() {
        return Ok(None);
    }
    let inside = match name.strip_prefix(NAME) {
        Some("") => "model",
        Some(rest) => match rest.strip_prefix('/') {
            Some(file) if FILES.iter().any(|(known, _)| *known == file) => file,
            Some(file) if !Path::new(NAME).exists() => return Err(no_file(file)),
            _ => return Ok(None),
        },
        None => return Ok(None),
    };
    Ok(Some(unpack()?.join(inside)))
}

/// The error for a file that the embedded data do not have.
fn no_file(file: &str) -> Error {
    let names = FILES.iter().map(|(name, _)| *name).filter(|name| !name.contains('/'));
    let near =
        nearest(file, names.clone()).map_or(String::new(), |near| format!("; did you mean {NAME}/{near}?"));
    let all = names.map(|name| format!("{NAME}/{name}")).collect::<Vec<_>>().join(", ");
    Error::Config(format!("{NAME}/{file} does not exist{near}; the embedded files are {all}"))
}

/// Unpacks the files that are missing or damaged, into a directory named by their contents.
fn unpack() -> Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    FILES.iter().for_each(|(name, bytes)| {
        hasher.update(name.as_bytes());
        hasher.update(bytes);
    });
    let version = hasher.finalize().to_hex();
    let name = format!("{NAME}-{}", &version[..12]);
    let temporary = std::env::temp_dir().join("dpo-lora").join(&name);
    restored(files::cache_directory().map(|cache| cache.join(&name)), temporary)
}

/// Restores the first of two directories, or the other one if there is no first or it cannot be written.
fn restored(first: Option<PathBuf>, other: PathBuf) -> Result<PathBuf> {
    static TOLD: Once = Once::new();
    let Some(first) = first else { return restore(&other).map(|()| other) };
    let Err(error) = restore(&first) else { return Ok(first) };
    if let Err(also) = restore(&other) {
        return Err(Error::Config(format!(
            "the built-in files of {NAME} cannot be unpacked: {error}; {also}; set XDG_CACHE_HOME to a directory that can be written"
        )));
    }
    TOLD.call_once(|| {
        log::warn!(
            "{error}; the built-in files of {NAME} are in {} instead; set XDG_CACHE_HOME to a directory that can be written",
            other.display()
        );
    });
    Ok(other)
}

/// Writes the files of which a directory has not the bytes.
fn restore(directory: &Path) -> Result<()> {
    for (name, bytes) in FILES {
        let path = directory.join(name);
        match std::fs::read(&path) {
            Ok(found) if found == *bytes => continue,
            Ok(_) => log::warn!("{} was damaged, and is restored", path.display()),
            // It is not there, or cannot be read: writing says why.
            Err(_) => {}
        }
        files::write_bytes(&path, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_first_directory_cannot_be_written_the_other_one_is() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        assert_eq!(restored(Some(at("a")), at("b")).unwrap(), at("a"));
        assert!(!at("b").exists());
        // Nothing can be written below a file, not even by root.
        std::fs::write(at("file"), "").unwrap();
        assert_eq!(restored(Some(at("file/a")), at("b")).unwrap(), at("b"));
        assert_eq!(restored(None, at("c")).unwrap(), at("c"));
        let error = restored(Some(at("file/a")), at("file/b")).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("XDG_CACHE_HOME"), "{error}");
    }

    #[test]
    fn damage_of_an_unpacked_file_is_restored() {
        let place = tempfile::tempdir().unwrap();
        restore(place.path()).unwrap();
        let path = place.path().join("model/model.safetensors");
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[1_000_000] ^= 1;
        for damage in [&damaged[..], &whole[..1000], b""] {
            std::fs::write(&path, damage).unwrap();
            restore(place.path()).unwrap();
            assert!(std::fs::read(&path).unwrap() == whole, "{} bytes", damage.len());
        }
        // What is whole is not written again.
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        restore(place.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written);
    }
}
