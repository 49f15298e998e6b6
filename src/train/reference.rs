//! Reference log-probs, computed once for each pair and kept in memory and on disk.
//!
//! Each file belongs to one reference policy: its name is a hash of the base's fingerprint, the settings that it computes with,
//! the frozen adapters, the storage type, the kernel path and the format version. Within a file, a pair is identified by the
//! hash of its token ids. The values do not depend on the objective or the trained adapter, so other runs can reuse them.
//! Since a row's bits do not depend on its batch, a cached value equals the value that would be computed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::adapter::fingerprint;
use crate::data::{Dataset, PackedBatch};
use crate::error::Result;
use crate::files;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::ops::gemm::Isa;
use crate::trainable::Policy;

/// The first bytes of a file; the digit is the format version.
const MAGIC: &[u8; 8] = b"dporef 3";

type Id = [u8; 32];

/// Returns a name for the reference policy: a hash of everything that its log-probs depend on except the tokens.
pub fn policy(base_fingerprint: &str, decoder: &Decoder, policy: &Policy) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(weights(base_fingerprint, decoder, policy).as_bytes());
    hasher.update(fingerprint::exact(decoder.spec()).as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// Returns a hash of the reference's weights and of the kernels, without the settings of `config.json`: what a checkpoint must
/// have in common with the run that resumes it. Its adapter notes the settings by name.
pub fn weights(base_fingerprint: &str, decoder: &Decoder, policy: &Policy) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MAGIC);
    hasher.update(base_fingerprint.as_bytes());
    hasher.update(decoder.storage().as_bytes());
    match decoder.device_description() {
        None => hasher.update(Isa::detected().arithmetic().as_bytes()),
        Some((device, kind)) => {
            let kernels = crate::device::kernels_fingerprint();
            hasher.update(format!("{} {} {kind} {kernels}", device.name, device.versions).as_bytes())
        }
    };
    for frozen in &policy.frozen {
        for adapter in frozen.adapters.iter() {
            hasher.update(adapter.identity().as_bytes());
        }
        hasher.update(bytemuck::cast_slice(frozen.adapters.values()));
    }
    hasher.finalize().to_hex().to_string()
}

/// The reference log-probs of the pairs seen so far.
#[derive(Debug, Default)]
pub struct ReferenceCache {
    path: Option<PathBuf>,
    known: BTreeMap<Id, Vec<f64>>,
    /// Pairs computed by this process.
    pub computed: usize,
    /// Pairs whose log-probs were already known.
    pub found: usize,
    unsaved: bool,
}

impl ReferenceCache {
    /// Creates a cache that is kept in memory only.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Reads a cache from a file. A damaged file is reported in the second value, and its log-probs are recomputed.
    pub fn in_file(path: PathBuf) -> (Self, Option<String>) {
        let mut damage = None;
        let known = match std::fs::read(&path) {
            Err(_) => BTreeMap::new(),
            Ok(bytes) => parse(&bytes).unwrap_or_else(|| {
                damage =
                    Some(format!("{} is damaged; its reference log-probs are computed anew", path.display()));
                BTreeMap::new()
            }),
        };
        (Self { path: Some(path), known, ..Self::default() }, damage)
    }

    /// Returns how many of these examples are in the cache.
    pub fn knows(&self, examples: &Dataset) -> usize {
        examples.entries().filter(|entry| self.known.contains_key(&entry.id)).count()
    }

    /// Returns the reference log-probs of a batch's completions, in order. Those not in the cache are computed.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn logps(&mut self, decoder: &Decoder, policy: &Policy, batch: &PackedBatch) -> Result<Vec<f64>> {
        if batch.ids.iter().all(|id| self.known.contains_key(id)) {
            self.found += batch.ids.len();
        } else {
            let fresh = decoder.logps(batch, policy, Pass::Reference)?;
            let mut fresh = fresh.into_iter();
            for (id, tree) in batch.ids.iter().zip(&batch.trees) {
                self.known.insert(*id, fresh.by_ref().take(tree.completions.len()).collect());
            }
            self.computed += batch.ids.len();
            self.unsaved = true;
        }
        Ok(batch.ids.iter().filter_map(|id| self.known.get(id)).flatten().copied().collect())
    }

    /// Takes over the log-probs of a batch that another rank computed or found, unless they are known.
    pub fn learn(&mut self, batch: &PackedBatch, logps: &[f64]) {
        let mut given = logps.iter().copied();
        for (id, tree) in batch.ids.iter().zip(&batch.trees) {
            let values: Vec<f64> = given.by_ref().take(tree.completions.len()).collect();
            if !self.known.contains_key(id) {
                self.known.insert(*id, values);
                self.computed += 1;
                self.unsaved = true;
            }
        }
    }

    /// Forgets all log-probs, because the reference is another one now.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Writes the file if there is one and it has new entries.
    ///
    /// # Errors
    /// If it cannot be written; no further attempt is made, and the log-probs are kept in memory only.
    pub fn save(&mut self) -> Result<()> {
        if let (Some(path), true) = (&self.path, self.unsaved) {
            let written = files::write_bytes(path, &serialise(&self.known));
            self.unsaved = false;
            if written.is_err() {
                self.path = None;
            }
            return written;
        }
        Ok(())
    }
}

/// Serialises the magic bytes, the entries (id, count, values) and the BLAKE3 hash of all of these.
fn serialise(known: &BTreeMap<Id, Vec<f64>>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (id, values) in known {
        bytes.extend(id);
        bytes.extend((values.len() as u32).to_le_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<Id, Vec<f64>>> {
    let (body, hash) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut known = BTreeMap::new();
    while !rest.is_empty() {
        let (id, after) = rest.split_first_chunk::<32>()?;
        let (count, after) = after.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let values = after.get(..count.checked_mul(8)?)?;
        let values = values
            .chunks_exact(8)
            .map(|c| c.try_into().map(f64::from_le_bytes))
            .collect::<Result<Vec<_>, _>>();
        known.insert(*id, values.ok()?);
        rest = &after[count * 8..];
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reference");
        let known = BTreeMap::from([([1; 32], vec![-1.5, f64::MIN_POSITIVE]), ([2; 32], vec![0.0; 3])]);
        let bytes = serialise(&known);
        files::write_bytes(&path, &bytes).unwrap();
        let (cache, damage) = ReferenceCache::in_file(path.clone());
        assert_eq!((cache.known, damage), (known, None));
        for at in [0, 9, 45, bytes.len() - 1] {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            files::write_bytes(&path, &broken).unwrap();
            let (cache, damage) = ReferenceCache::in_file(path.clone());
            assert!(cache.known.is_empty() && damage.is_some(), "byte {at}");
        }
        files::write_bytes(&path, &bytes[..bytes.len() - 5]).unwrap();
        assert!(ReferenceCache::in_file(path).1.is_some());
    }
}
