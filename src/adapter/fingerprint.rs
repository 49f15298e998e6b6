//! Identifies the weights of a base: BLAKE3 over its tensors, cached by its files' sizes and times; and what it computes with
//! them.

mod architecture;

use std::path::Path;

pub use self::architecture::{ARCHITECTURE_KEY, Architecture, Compared, exact};
use crate::error::Result;
use crate::files;
use crate::report::Activity;
use crate::weights::WeightSource;

/// Prefix of the hashed bytes; changing it changes every fingerprint.
const DOMAIN: &[u8] = b"dpo-lora base 1\n";

/// BLAKE3 over sorted (name, storage type, shape, bytes) of all tensors, in hexadecimal. It depends neither on the number of
/// shards nor on the order in a file. Cached in [`files::cache_directory`] as long as the files keep their sizes and
/// modification times.
///
/// # Errors
/// If a tensor cannot be read. A cache that is damaged or not writable is not an error.
pub fn fingerprint(source: &dyn WeightSource) -> Result<String> {
    let cache = files::cache_directory().map(|cache| cache.join("fingerprints"));
    fingerprint_with(source, cache.as_deref())
}

/// As [`fingerprint`], cached in the directory `cache`, or not at all.
///
/// # Errors
/// As [`fingerprint`].
pub fn fingerprint_with(source: &dyn WeightSource, cache: Option<&Path>) -> Result<String> {
    files::remembered(source.files(), cache, || compute(source))
}

/// As much of a fingerprint as people compare.
pub fn shortened(fingerprint: &str) -> String {
    const SHOWN: usize = 32;
    if fingerprint.len() <= SHOWN {
        return fingerprint.into();
    }
    fingerprint.chars().take(SHOWN).chain(['…']).collect()
}

fn compute(source: &dyn WeightSource) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    let mut names = source.names();
    names.sort_unstable();
    let activity = Activity::new("hashing the base's tensors", names.len() as u64);
    for name in names {
        activity.advance(1);
        let stored = source.stored(&name)?;
        // Lengths precede what they measure, so that two models never give the same bytes.
        for text in [name.as_bytes(), stored.dtype.as_bytes()] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
        }
        hasher.update(&(stored.shape.len() as u64).to_le_bytes());
        for size in &stored.shape {
            hasher.update(&(*size as u64).to_le_bytes());
        }
        hasher.update(&(stored.bytes.len() as u64).to_le_bytes()).update(stored.bytes);
        // The model reads what it needs again; the rest need not stay in memory.
        if let Ok(weight) = source.get(&name) {
            weight.release();
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use super::super::testing::write_checkpoint;
    use super::*;
    use crate::weights::SafetensorsSource;

    fn of(directory: &Path, cache: Option<&Path>) -> String {
        fingerprint_with(&SafetensorsSource::open(directory).unwrap(), cache).unwrap()
    }

    fn age(path: &Path, then: SystemTime) {
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        // The system's own time of the change cannot be set.
        std::thread::sleep(Duration::from_millis(60));
    }

    #[test]
    fn names_shapes_types_and_bytes_count_and_shards_do_not() {
        let bytes: Vec<u8> = (0..24).collect();
        let whole = |tensors: &[(&str, &str, &[usize], &[u8])]| {
            let directory = tempfile::tempdir().unwrap();
            write_checkpoint(&directory.path().join("model.safetensors"), tensors);
            of(directory.path(), None)
        };
        let (a, b) = (("a", "F32", &[2][..], &bytes[..8]), ("b", "I64", &[1, 2][..], &bytes[8..24]));
        let first = whole(&[a, b]);
        let sharded = tempfile::tempdir().unwrap();
        write_checkpoint(&sharded.path().join("2.safetensors"), &[a]);
        write_checkpoint(&sharded.path().join("1.safetensors"), &[b]);
        let index = r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors"}}"#;
        std::fs::write(sharded.path().join("model.safetensors.index.json"), index).unwrap();
        assert_eq!(first, of(sharded.path(), None));

        let others = [
            whole(&[a]),
            whole(&[("aa", "F32", &[2], &bytes[..8]), b]),
            whole(&[("a", "I32", &[2], &bytes[..8]), b]),
            whole(&[("a", "F32", &[2, 1], &bytes[..8]), b]),
            whole(&[("a", "F32", &[2], &bytes[1..9]), b]),
        ];
        assert!(others.iter().all(|other| *other != first && other.len() == 64), "{others:?}");
    }

    #[test]
    fn it_is_remembered_until_a_file_changes_and_a_damaged_cache_is_ignored() {
        let (base, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = base.path().join("model.safetensors");
        let make = |fill: u8| write_checkpoint(&path, &[("w", "U8", &[3], &[fill; 3])]);
        let entries =
            || std::fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();

        make(1);
        let first = of(base.path(), Some(cache.path()));
        assert!(entries().is_empty(), "a file this young is not remembered");
        let then = SystemTime::now() - Duration::from_secs(60);
        age(&path, then);
        assert_eq!(of(base.path(), Some(cache.path())), first);
        let [entry] = &entries()[..] else { panic!("one entry expected") };

        // The cache is used...
        let lie = "0".repeat(64);
        let text = std::fs::read_to_string(entry).unwrap();
        std::fs::write(entry, text.replace(&first, &lie)).unwrap();
        assert_eq!(of(base.path(), Some(cache.path())), lie);
        // ... unless it is damaged ...
        for damaged in ["", "{", "null", &text.replace(&first, "../x"), &text[..text.len() / 2]] {
            std::fs::write(entry, damaged).unwrap();
            assert_eq!(of(base.path(), Some(cache.path())), first);
        }
        // ... or of other files, also if they have the same size and claim the same age, as those of an archive do.
        make(2);
        age(&path, then);
        let second = of(base.path(), Some(cache.path()));
        assert_ne!(second, first);
        assert_eq!(of(base.path(), None), second);
        assert_eq!(entries().len(), 1);
    }
}
