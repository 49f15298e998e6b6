//! Checkpoints in safetensors, one file or sharded with an index, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::{DType, FrozenWeight, Stored, WeightSource};
use crate::error::{Error, Result};
use crate::files::FileStamp;

/// The tensors of a checkpoint directory.
#[derive(Debug)]
pub struct SafetensorsSource {
    directory: PathBuf,
    tensors: BTreeMap<String, Entry>,
    files: Vec<FileStamp>,
}

#[derive(Debug)]
struct Entry {
    file: Arc<Mmap>,
    path: Arc<Path>,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    bytes: usize,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What a Git LFS pointer begins with.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

impl SafetensorsSource {
    /// Whether a file that begins with these bytes is a Git LFS pointer: the text that a clone without git-lfs has in place
    /// of a file.
    pub fn is_pointer(bytes: &[u8]) -> bool {
        bytes.starts_with(POINTER)
    }

    /// Maps the checkpoint of a model directory: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// If neither is there, a header is damaged, a shard is missing, or the index names a path outside the directory
    /// or a tensor that its shard does not hold.
    pub fn open(directory: &Path) -> Result<Self> {
        let (single, index_path) = (directory.join(SINGLE), directory.join(INDEX));
        // Also a link that leads nowhere, or a directory: the error says so.
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        if single.is_file() || is_there(&single) && !is_there(&index_path) {
            return Self::open_files(directory, &[single]);
        }
        if !is_there(&index_path) {
            return Err(Error::Weights(format!(
                "no {SINGLE} and no {INDEX} in {}; a base is a directory with config.json, tokenizer.json and \
                 safetensors weights (pickled .bin checkpoints are not read: convert them with transformers' \
                 save_pretrained)",
                directory.display()
            )));
        }
        let text = std::io::read_to_string(opened(&index_path)?).map_err(Error::read(&index_path))?;
        let index: Index = serde_json::from_str(&text).map_err(|e| {
            Error::Weights(format!("{}: {e}; expected {{\"weight_map\": {{...}}}}", index_path.display()))
        })?;
        let mut shards: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        let files = shards.iter().map(|name| shard_path(directory, name)).collect::<Result<Vec<_>>>()?;
        let source = Self::open_files(directory, &files)?;
        for (name, shard) in &index.weight_map {
            if source.tensors.get(name).is_none_or(|entry| !entry.path.ends_with(shard)) {
                return Err(Error::Weights(format!(
                    "{} says that {shard} holds the tensor {name}, but it does not",
                    index_path.display()
                )));
            }
        }
        Ok(source)
    }

    /// Maps the given files.
    ///
    /// # Errors
    /// As [`SafetensorsSource::open`].
    pub fn open_files(directory: &Path, files: &[PathBuf]) -> Result<Self> {
        let (mut tensors, mut stamps) = (BTreeMap::new(), Vec::new());
        for path in files {
            let file = opened(path)?;
            stamps.push(FileStamp::of(path, &file).map_err(Error::read(path))?);
            for (name, entry) in read_header(path, &file)? {
                if tensors.insert(name.clone(), entry).is_some() {
                    return Err(Error::Weights(format!(
                        "two shards hold the tensor {name}; one is {}",
                        path.display()
                    )));
                }
            }
        }
        stamps.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { directory: directory.to_path_buf(), tensors, files: stamps })
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| {
            Error::Weights(format!("{} has no tensor {name}; is it complete?", self.directory.display()))
        })
    }
}

/// A shard's path; a name that leaves the directory is refused.
fn shard_path(directory: &Path, name: &str) -> Result<PathBuf> {
    let plain = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if name.is_empty() || !plain {
        return Err(Error::Weights(format!(
            "{INDEX} in {} names the shard {name:?}; shards are plain file names in that directory",
            directory.display()
        )));
    }
    Ok(directory.join(name))
}

/// Opens a file of a checkpoint. A link that leads nowhere and a directory are named as what they are.
fn opened(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| match std::fs::read_link(path) {
        Ok(to) if error.kind() == std::io::ErrorKind::NotFound => Error::Weights(format!(
            "{} is a link to {}, where there is no file; download or copy it again",
            path.display(),
            to.display()
        )),
        _ => Error::read(path)(error),
    })?;
    if file.metadata().map_err(Error::read(path))?.is_dir() {
        return Err(Error::Weights(format!(
            "{} is a directory, not a file; download or copy it again",
            path.display()
        )));
    }
    Ok(file)
}

fn read_header(path: &Path, file: &File) -> Result<Vec<(String, Entry)>> {
    // SAFETY: the map is read-only. A file that another process shrinks meanwhile would fault; checkpoints are not
    // rewritten in place by any tool we know of (they are replaced by rename, which leaves the map whole).
    let map = Arc::new(unsafe { Mmap::map(file) }.map_err(Error::read(path))?);
    if SafetensorsSource::is_pointer(&map) {
        return Err(Error::Weights(format!(
            "{} is a Git LFS pointer, not the weights; fetch them with git lfs pull",
            path.display()
        )));
    }
    let damaged = |e: safetensors::SafeTensorError| {
        Error::Weights(format!(
            "{} is not a whole safetensors file ({e}); download or copy it again",
            path.display()
        ))
    };
    let parsed = SafeTensors::deserialize(&map).map_err(damaged)?;
    let origin = map.as_ptr().addr();
    let path: Arc<Path> = path.into();
    Ok(parsed
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let start = view.data().as_ptr().addr() - origin;
            let (shape, bytes) = (view.shape().to_vec(), view.data().len());
            (name, Entry { file: map.clone(), path: path.clone(), dtype: view.dtype(), shape, start, bytes })
        })
        .collect())
}

impl WeightSource for SafetensorsSource {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|entry| entry.shape.clone())
    }

    fn get(&self, name: &str) -> Result<FrozenWeight> {
        let entry = self.entry(name)?;
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::Bf16,
            Dtype::F16 => DType::F16,
            other => {
                return Err(Error::Weights(format!(
                    "tensor {name} in {} is {other:?}; F32, F16 and BF16 are supported",
                    entry.path.display()
                )));
            }
        };
        FrozenWeight::from_file(&entry.file, entry.start, entry.bytes, dtype, &entry.shape)
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let Entry { file, dtype, shape, start, bytes, .. } = self.entry(name)?;
        // `read_header` took the range from a slice of this very map.
        Ok(Stored { dtype: dtype.to_string(), shape: shape.clone(), bytes: &file[*start..*start + *bytes] })
    }

    fn files(&self) -> Vec<FileStamp> {
        self.files.clone()
    }

    fn describe(&self) -> String {
        self.directory.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(directory.join(name), bytes).unwrap();
    }

    /// A file with one f32 tensor `w` of shape [2], and `pad` bytes of header padding to shift its data.
    fn one_tensor(pad: usize) -> Vec<u8> {
        let mut header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_string();
        header.push_str(&" ".repeat(pad));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
        bytes
    }

    #[test]
    fn aligned_and_misaligned_tensors_read_the_same() {
        for pad in 0..8 {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), SINGLE, &one_tensor(pad));
            let weight = SafetensorsSource::open(directory.path()).unwrap().get("w").unwrap();
            assert_eq!(weight.elements().to_f32(), [1.5, -2.0], "pad {pad}");
        }
    }

    #[test]
    fn what_stands_in_place_of_a_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |part: &str| {
            let error = SafetensorsSource::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(SINGLE) && error.contains(part), "{error}");
        };
        let single = directory.path().join(SINGLE);
        write(
            directory.path(),
            SINGLE,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        );
        refused("is a Git LFS pointer, not the weights; fetch them with git lfs pull");
        std::fs::remove_file(&single).unwrap();
        std::fs::create_dir(&single).unwrap();
        refused("is a directory, not a file");
        std::fs::remove_dir(&single).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../../blobs/gone", &single).unwrap();
            refused("is a link to ../../blobs/gone, where there is no file");
            std::fs::remove_file(&single).unwrap();
            std::os::unix::fs::symlink("gone", directory.path().join("a.safetensors")).unwrap();
            write(directory.path(), INDEX, br#"{"weight_map":{"w":"a.safetensors"}}"#);
            let error = SafetensorsSource::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("a.safetensors is a link to gone"), "{error}");
        }
    }

    #[test]
    fn truncated_files_and_escaping_shards_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let whole = one_tensor(0);
        for cut in [0, 4, 8, 20, whole.len() - 1] {
            write(directory.path(), SINGLE, &whole[..cut]);
            let error = SafetensorsSource::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(SINGLE), "cut at {cut}: {error}");
        }
        std::fs::remove_file(directory.path().join(SINGLE)).unwrap();
        for shard in ["../w.safetensors", "/etc/passwd", ""] {
            write(directory.path(), INDEX, format!(r#"{{"weight_map":{{"w":"{shard}"}}}}"#).as_bytes());
            let error = SafetensorsSource::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("plain file names"), "{error}");
        }
    }
}
