//! Where files are kept that can be made again, and how a file's contents are recognised without reading it again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{cache_directory, write_bytes};
use crate::error::{Error, Result};

/// Where a cache is kept: `auto` (the user's cache directory), `off`, or a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CacheChoice {
    /// `$XDG_CACHE_HOME/dpo-lora`.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// This directory.
    Dir(PathBuf),
}

impl Serialize for CacheChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::Dir(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CacheChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = CacheChoice;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("auto, off or a directory")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<CacheChoice, E> {
                match text {
                    "auto" => Ok(CacheChoice::Auto),
                    "off" => Ok(CacheChoice::Off),
                    "" => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                    path => Ok(CacheChoice::Dir(path.into())),
                }
            }
            // YAML 1.1 tools write `off` as `false`.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<CacheChoice, E> {
                Ok(if on { CacheChoice::Auto } else { CacheChoice::Off })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl CacheChoice {
    /// Returns the directory, with `name` below the user's cache directory for `auto`; `None` if nothing is kept.
    pub fn directory(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Off => None,
            Self::Auto => cache_directory().map(|cache| cache.join(name)),
            Self::Dir(directory) => Some(directory.clone()),
        }
    }
}

/// A file written this recently may be written again within one tick of its clock: its hash is not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// A hash, and the file as it was when it was computed.
#[derive(Serialize, Deserialize, PartialEq)]
struct Remembered {
    path: PathBuf,
    size: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    hash: String,
}

/// Returns the BLAKE3 hash of the contents of `path`. It is remembered in `cache` as long as the file keeps its size and
/// modification time.
///
/// # Errors
/// Returns [`Error::Io`] if the file cannot be read. A damaged or read-only cache is no error.
pub fn content_hash(path: &Path, cache: &Path) -> Result<String> {
    let read = || Error::read(path);
    let whole = path.canonicalize().map_err(read())?;
    let stamp = |whole: &Path| -> std::io::Result<(u64, SystemTime)> {
        let metadata = std::fs::metadata(whole)?;
        Ok((metadata.len(), metadata.modified()?))
    };
    let (size, time) = stamp(&whole).map_err(read())?;
    let modified = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let name = blake3::hash(whole.as_os_str().as_encoded_bytes()).to_hex();
    let entry = cache.join("contents").join(format!("{}.json", &name[..32]));
    let known = std::fs::read(&entry).ok().and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = known.filter(|k| k.path == whole && k.size == size && k.modified == modified) {
        return Ok(known.hash);
    }
    let hash = hash_of(&whole).map_err(read())?;
    let settled = SystemTime::now().duration_since(time).is_ok_and(|age| age >= SETTLED);
    if settled && stamp(&whole).is_ok_and(|now| now == (size, time)) {
        let remembered = Remembered { path: whole, size, modified, hash: hash.clone() };
        // Without the cache the next run hashes again.
        let _ = serde_json::to_vec(&remembered).map(|bytes| write_bytes(&entry, &bytes));
    }
    Ok(hash)
}

fn hash_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}
