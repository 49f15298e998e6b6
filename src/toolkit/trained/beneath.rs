//! The frozen adapters that an adapter was trained above: noted in its metadata, and missed wherever it is used without
//! them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::adapter::read::{self, Nature};
use crate::adapter::{mlx, peft};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::files::shell_word;
use crate::train::run_dir;

/// Metadata key of the frozen adapters, one line of JSON.
pub(super) const FROZEN: &str = "dpo_lora.frozen_adapters";

/// The weights as PEFT wrote them before safetensors.
const PICKLED: &str = "adapter_model.bin";

/// A frozen adapter below the one that was trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beneath {
    /// Its path as the run named it. The path of an earlier stage begins at the directory of the whole run.
    pub path: String,
    /// The BLAKE3 hash of its numbers.
    pub hash: String,
}

/// An adapter that is used without some of the frozen ones that it was trained above.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    adapter: PathBuf,
    /// All that it was trained above, in order, at the places where they are found.
    frozen: Vec<PathBuf>,
    /// Those of them that are not used.
    lacks: Vec<PathBuf>,
    /// The same as they are noted.
    pub noted: Vec<Beneath>,
}

/// Returns the frozen adapters of a run.
///
/// # Errors
/// If one of them cannot be read.
pub(super) fn of_run(config: &RunConfig) -> Result<Vec<Beneath>> {
    if config.model.adapter.is_empty() {
        return Ok(Vec::new());
    }
    // The adapters of stages are the same wherever the directory of the whole run is.
    let whole = run_dir::whole_of(&config.output_dir);
    let noted = |path: &PathBuf| {
        let inside = whole.as_deref().and_then(|whole| path.strip_prefix(whole).ok());
        let shown = inside.unwrap_or(path).display().to_string();
        Ok(Beneath { path: shown, hash: hash(path)? })
    };
    config.model.adapter.iter().map(noted).collect()
}

/// Returns the frozen adapters as an entry of metadata; none without any.
///
/// # Errors
/// If they cannot be written as JSON.
pub(super) fn entry(frozen: &[Beneath]) -> Result<Option<(String, String)>> {
    if frozen.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(frozen).map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(Some((FROZEN.into(), text)))
}

/// Reads the frozen adapters from an adapter's metadata.
///
/// # Errors
/// If the entry is damaged.
pub(super) fn parsed(metadata: &BTreeMap<String, String>) -> serde_json::Result<Vec<Beneath>> {
    metadata.get(FROZEN).map_or_else(|| Ok(Vec::new()), |text| serde_json::from_str(text))
}

/// Returns those of the adapters, each with what it was trained above, that are used without some of it. Adapters are
/// recognised by their numbers.
///
/// # Errors
/// If an adapter cannot be read.
pub(super) fn missing(used: &[(PathBuf, Vec<Beneath>)]) -> Result<Vec<Missing>> {
    if used.iter().all(|(_, frozen)| frozen.is_empty()) {
        return Ok(Vec::new());
    }
    let hashes = used.iter().map(|(path, _)| hash(path)).collect::<Result<Vec<_>>>()?;
    let of = |(adapter, frozen): &(PathBuf, Vec<Beneath>)| {
        let is_missing = |beneath: &&Beneath| !hashes.contains(&beneath.hash);
        let noted: Vec<Beneath> = frozen.iter().filter(is_missing).cloned().collect();
        let place = |beneath: &Beneath| found(adapter, beneath);
        (!noted.is_empty()).then(|| Missing {
            adapter: adapter.clone(),
            frozen: frozen.iter().map(place).collect(),
            lacks: noted.iter().map(place).collect(),
            noted,
        })
    };
    Ok(used.iter().filter_map(of).collect())
}

impl Missing {
    /// What is wrong, and the remedy on a command line.
    pub(super) fn of_command(&self) -> String {
        format!("{}; name all of them: {}", self.said("named here"), self.flags())
    }

    /// The same where a single adapter can be named.
    pub(super) fn of_single(&self, is_reward: bool) -> String {
        let said = self.said("used here");
        if is_reward {
            // The head of a reward model is no part of a combination.
            return format!("{said}; merge the others into the base, and train the reward model on that");
        }
        match self.nature() {
            Nature::Lora => {
                format!("{said}; name one adapter that holds all of them, from {}", self.combining())
            }
            Nature::Mergeable => format!(
                "{said}; name as the base one model that holds all of them, from dpo-lora merge --base BASE {} --output MODEL",
                self.flags()
            ),
            Nature::Beside => {
                format!("{said}; use a command that takes several adapters, with {}", self.flags())
            }
        }
    }

    /// What can be made of all together.
    fn nature(&self) -> Nature {
        let all = self.frozen.iter().chain(std::iter::once(&self.adapter));
        // What cannot be read is told where it is used.
        all.filter_map(|path| read::nature(path).ok()).max().unwrap_or(Nature::Lora)
    }

    /// The command that makes one adapter of all LoRA.
    fn combining(&self) -> String {
        format!("dpo-lora merge --base BASE {} --combination cat --output-adapter ALL", self.flags())
    }

    /// The flags that name all, in order.
    fn flags(&self) -> String {
        let all = self.frozen.iter().chain(std::iter::once(&self.adapter));
        let flags: Vec<String> = all.map(|path| format!("--adapter {}", shell_word(path))).collect();
        flags.join(" ")
    }

    /// The same for a run that trains above it or goes on with it.
    pub(super) fn of_run(&self) -> String {
        let frozen: Vec<String> = self.frozen.iter().map(|path| path.display().to_string()).collect();
        let said = self.said("a part of this run");
        format!("{said}; let model.adapter begin with [{}]", frozen.join(", "))
    }

    /// The same for an adapter that is uploaded.
    pub(super) fn of_upload(&self) -> String {
        let needs = format!(
            "{}; whoever loads it needs them too: upload them as well",
            self.said("uploaded with it")
        );
        match self.nature() {
            Nature::Lora => {
                format!("{needs}, or upload one adapter that holds all of them, from {}", self.combining())
            }
            // One adapter cannot hold them.
            Nature::Mergeable | Nature::Beside => needs,
        }
    }

    fn said(&self, where_not: &str) -> String {
        let lacks: Vec<String> = self.lacks.iter().map(|path| path.display().to_string()).collect();
        let (noun, verb, them) = match lacks.len() {
            1 => ("the frozen adapter", "is", "it"),
            _ => ("the frozen adapters", "are", "them"),
        };
        format!(
            "{} was trained above {noun} {}, which {verb} not {where_not}: without {them} this is not the model that was trained \
             and evaluated",
            self.adapter.display(),
            lacks.join(", ")
        )
    }
}

/// Returns the place of a frozen adapter: its path as it is noted, or the same path beside the adapter that was trained.
fn found(adapter: &Path, beneath: &Beneath) -> PathBuf {
    let noted = PathBuf::from(&beneath.path);
    let own = read::located(adapter).unwrap_or_else(|_| adapter.to_path_buf());
    let beside: Vec<PathBuf> = own.ancestors().skip(1).map(|directory| directory.join(&noted)).collect();
    let is_it = |path: &PathBuf| hash(path).is_ok_and(|found| found == beneath.hash);
    std::iter::once(noted.clone()).chain(beside).find(is_it).unwrap_or(noted)
}

/// The hash of an adapter's numbers. What else its file notes does not count.
fn hash(path: &Path) -> Result<String> {
    let path = read::located(path)?;
    let names = [peft::WEIGHTS, PICKLED, mlx::WEIGHTS];
    let file = match path.is_file() {
        true => path,
        false => {
            let inside = names.iter().map(|name| path.join(name)).find(|file| file.is_file());
            inside.unwrap_or_else(|| path.join(peft::WEIGHTS))
        }
    };
    let bytes = std::fs::read(&file).map_err(Error::read(&file))?;
    let is_safetensors = file.extension().is_some_and(|end| end == "safetensors");
    let numbers = if is_safetensors { without_header(&bytes) } else { &bytes[..] };
    Ok(blake3::hash(numbers).to_hex().to_string())
}

/// The numbers of a safetensors file, without the names and the metadata before them.
fn without_header(bytes: &[u8]) -> &[u8] {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return bytes };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    rest.get(length..).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like an adapter, with these bytes behind a header.
    fn adapter(place: &Path, name: &str, header: &str, numbers: &[u8]) -> PathBuf {
        let path = place.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(peft::CONFIG), "{}").unwrap();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), numbers].concat();
        std::fs::write(path.join(peft::WEIGHTS), bytes).unwrap();
        path
    }

    #[test]
    fn adapters_are_recognised_by_their_numbers() {
        let place = tempfile::tempdir().unwrap();
        let below = adapter(place.path(), "1-sft/adapter", "{}", b"abcd");
        let copy = adapter(place.path(), "copy", "{\"a\":1}", b"abcd");
        let other = adapter(place.path(), "other", "{}", b"abce");
        let own = adapter(place.path(), "2-dpo/adapter", "{}", b"efgh");
        let frozen = vec![Beneath { path: "1-sft/adapter".into(), hash: hash(&below).unwrap() }];
        let with = |others: &[&PathBuf]| {
            let others = others.iter().map(|path| ((*path).clone(), Vec::new()));
            let used: Vec<_> = others.chain([(own.clone(), frozen.clone())]).collect();
            missing(&used).unwrap()
        };
        assert!(with(&[&below]).is_empty() && with(&[&copy]).is_empty());
        for found in [with(&[]), with(&[&other])] {
            let [found] = &found[..] else { panic!("{found:?}") };
            assert_eq!((&found.noted, &found.lacks), (&frozen, &vec![below.clone()]), "found beside it");
            let told = found.of_command();
            let flags = format!("--adapter {} --adapter {}", shell_word(&below), shell_word(&own));
            assert!(
                told.contains("was trained above the frozen adapter") && told.ends_with(&flags),
                "{told}"
            );
        }
        assert!(missing(&[(other, Vec::new())]).unwrap().is_empty());
    }

    #[test]
    fn the_remedy_fits_the_kinds() {
        let place = tempfile::tempdir().unwrap();
        let below = adapter(place.path(), "below", "{}", b"abcd");
        let own = adapter(place.path(), "own", "{}", b"efgh");
        let frozen = vec![Beneath { path: below.display().to_string(), hash: hash(&below).unwrap() }];
        for (settings, words, combines) in [
            (r#"{"peft_type": "LORA"}"#, "--combination cat --output-adapter ALL", true),
            (r#"{"peft_type": "LORA", "use_dora": true}"#, "--output MODEL", false),
            (r#"{"peft_type": "PREFIX_TUNING"}"#, "takes several adapters", false),
        ] {
            std::fs::write(below.join(peft::CONFIG), settings).unwrap();
            let found = missing(&[(own.clone(), frozen.clone())]).unwrap();
            assert!(found[0].of_single(false).contains(words), "{}", found[0].of_single(false));
            assert_eq!(found[0].of_upload().contains("--combination cat"), combines);
        }
    }

    #[test]
    fn a_note_reads_back_and_is_absent_without_frozen_adapters() {
        let frozen = vec![Beneath { path: "a b".into(), hash: "00".into() }];
        let metadata = BTreeMap::from_iter(entry(&frozen).unwrap());
        assert_eq!(parsed(&metadata).unwrap(), frozen);
        assert_eq!((entry(&[]).unwrap(), parsed(&BTreeMap::new()).unwrap()), (None, Vec::new()));
    }
}
