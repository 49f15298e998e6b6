//! Hashes of files, remembered so that unchanged files need not be read again.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::write_bytes;
use crate::error::{Error, Result};

/// A file written this recently may be written again within one tick of its clock: its fingerprint is not cached.
const SETTLED: Duration = Duration::from_secs(2);

/// The same for the system's own time, which is finer: more than one tick of its clock.
const UNCHANGED: Duration = Duration::from_millis(50);

/// A file as it was when it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Its absolute path, links resolved.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// When it was last written, nanoseconds since 1970.
    pub modified: u64,
    /// What the system counts for itself and no program sets: when the file was last changed, nanoseconds since 1970, and its
    /// number on its disk; 0 where there is no such count. Archives and `touch` restore times of writing.
    pub changed: (u64, u64),
}

impl FileStamp {
    /// The stamp of an open file.
    ///
    /// # Errors
    /// If the system does not provide the data.
    pub fn of(path: &Path, file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let modified = u64::try_from(modified).unwrap_or(u64::MAX);
        let (size, changed) = (metadata.len(), changed(&metadata));
        Ok(Self { path: std::fs::canonicalize(path)?, size, modified, changed })
    }
}

#[cfg(unix)]
fn changed(metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let since = Duration::from_secs(metadata.ctime().unsigned_abs());
    let nanoseconds = since.as_nanos() + u128::from(metadata.ctime_nsec().unsigned_abs());
    (u64::try_from(nanoseconds).unwrap_or(u64::MAX), metadata.ino())
}

#[cfg(not(unix))]
fn changed(_: &std::fs::Metadata) -> (u64, u64) {
    (0, 0)
}

/// A hash, and the files it belongs to.
#[derive(Serialize, Deserialize)]
struct Remembered {
    files: Vec<FileStamp>,
    fingerprint: String,
}

/// Returns what `compute` returns for the files of `stamps`: a hash in hexadecimal. It is kept in the directory `cache` as
/// long as the files keep their stamps; without a directory or files nothing is kept.
///
/// # Errors
/// Those of `compute`. A cache that is damaged or not writable is not an error.
pub fn remembered(
    stamps: Vec<FileStamp>,
    cache: Option<&Path>,
    compute: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let entry = cache.filter(|_| !stamps.is_empty()).map(|cache| entry_path(cache, &stamps));
    if let Some(known) = entry.as_deref().and_then(|path| recall(path, &stamps)) {
        return Ok(known);
    }
    let fingerprint = compute()?;
    if let Some(path) = entry.filter(|_| stamps.iter().all(is_settled)) {
        let remembered = Remembered { files: stamps, fingerprint: fingerprint.clone() };
        // Without the cache the next run hashes again; a read-only home is no reason to stop.
        let _ = serde_json::to_vec(&remembered).map(|bytes| write_bytes(&path, &bytes));
    }
    Ok(fingerprint)
}

/// Returns the BLAKE3 hash of the contents of `path`, remembered in `cache`.
///
/// # Errors
/// Returns [`Error::Io`] if the file cannot be read.
pub fn content_hash(path: &Path, cache: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::read(path))?;
    let stamp = FileStamp::of(path, &file).map_err(Error::read(path))?;
    remembered(vec![stamp], Some(&cache.join("contents")), || {
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer).map_err(Error::read(path))? {
                0 => return Ok(hasher.finalize().to_hex().to_string()),
                n => hasher.update(&buffer[..n]),
            };
        }
    })
}

/// One entry per set of paths: a changed base replaces its earlier entry.
fn entry_path(cache: &Path, stamps: &[FileStamp]) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    for stamp in stamps {
        hasher.update(stamp.path.as_os_str().as_encoded_bytes()).update(b"\0");
    }
    cache.join(format!("{}.json", &hasher.finalize().to_hex()[..32]))
}

fn recall(path: &Path, stamps: &[FileStamp]) -> Option<String> {
    let known: Remembered = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let is_hash = blake3::Hash::from_hex(&known.fingerprint).is_ok();
    (is_hash && known.files == stamps).then_some(known.fingerprint)
}

/// Whether the file is unchanged since it was opened, and old enough for its time to differ from that of a later
/// version.
fn is_settled(stamp: &FileStamp) -> bool {
    let is_older = |time: u64, than: Duration| {
        let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_nanos(time));
        age.is_ok_and(|age| age >= than)
    };
    let now = std::fs::File::open(&stamp.path).and_then(|file| FileStamp::of(&stamp.path, &file));
    is_older(stamp.modified, SETTLED)
        && is_older(stamp.changed.0, UNCHANGED)
        && now.is_ok_and(|now| now == *stamp)
}
