//! The value of `train.reference_cache`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where reference log-probabilities are kept: `auto` (the user's cache directory), `off`, or a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ReferenceCache {
    /// `$XDG_CACHE_HOME/dpo-lora`.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// This directory.
    Dir(PathBuf),
}

impl Serialize for ReferenceCache {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::Dir(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ReferenceCache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ReferenceCache;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("auto, off or a directory")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ReferenceCache, E> {
                match text {
                    "auto" => Ok(ReferenceCache::Auto),
                    "off" => Ok(ReferenceCache::Off),
                    "" => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                    path => Ok(ReferenceCache::Dir(path.into())),
                }
            }
            // YAML 1.1 tools write `off` as `false`.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<ReferenceCache, E> {
                Ok(if on { ReferenceCache::Auto } else { ReferenceCache::Off })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
