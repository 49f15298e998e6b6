//! Where files are kept that can be made again.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::cache_directory;

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
