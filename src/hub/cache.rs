//! The cache of one repository, laid out as Python's `huggingface_hub` lays it out, so that both share it:
//!
//! ```text
//! models--owner--name/refs/main                           the commit that `main` was at
//! models--owner--name/blobs/ETAG                          the bytes of a file
//! models--owner--name/snapshots/COMMIT/config.json     -> ../../blobs/ETAG
//! models--owner--name/.dpo-lora/COMMIT.json               ours: the names of all files of the commit
//! .locks/models--owner--name/ETAG.lock                    held while a blob is written
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::disk::{MAX_DEPTH, make_parent, symlink, walk, write, write_with};
use super::id::{HubId, is_commit};
use super::path::{Listing, RepoPath, encode};
use super::progress::Progress;
use crate::error::{Error, Result};

/// The kind of repository that an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

/// A repository at a revision, with its place in the cache and on the Hub.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    pub(super) kind: Kind,
    pub(super) id: HubId,
    root: PathBuf,
}

impl Repository {
    pub(super) fn new(root: &Path, kind: Kind, id: &HubId) -> Self {
        Self { kind, id: id.clone(), root: root.to_path_buf() }
    }

    fn layout(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.id.repository(), kind, self.id.revision().to_owned())
    }

    fn directory(&self) -> PathBuf {
        self.root.join(self.layout().folder_name())
    }

    /// The path of the repository's page on the Hub.
    pub(super) fn page(&self) -> String {
        match self.kind {
            Kind::Model => self.id.repository(),
            Kind::Dataset => format!("datasets/{}", self.id.repository()),
        }
    }

    /// The path under which the Hub gives the commit and the files of a revision.
    pub(super) fn info_url(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("api/{kind}/{}/revision/{}", self.id.repository(), encode(self.id.revision()))
    }

    /// The path under which the Hub gives a file.
    pub(super) fn file_url(&self, commit: &str, file: &RepoPath) -> String {
        format!("{}/resolve/{commit}/{}", self.page(), file.to_url())
    }

    /// The directory of the files of `commit`.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        Cache::new(self.root.clone()).repo(self.layout()).pointer_path(commit)
    }

    /// `file` of `commit`, if its bytes are here.
    pub(super) fn file(&self, commit: &str, file: &RepoPath) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(file.to_path())).filter(|path| path.is_file())
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.directory().join("blobs").join(etag)
    }

    /// The commit of the revision when it was last looked up; a commit is its own.
    pub(super) fn commit(&self) -> Option<String> {
        let revision = self.id.revision();
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.directory().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Records that the revision is at `commit`.
    pub(super) fn set_commit(&self, commit: &str) -> Result<()> {
        if self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.directory().join("refs").join(self.id.revision()), commit.as_bytes())
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.directory().join(".dpo-lora").join(format!("{commit}.json"))
    }

    /// All files of `commit`, if this program or Python (`trees/`) has asked the Hub for them before.
    pub(super) fn listing(&self, commit: &str) -> Option<Listing> {
        #[derive(Deserialize)]
        struct Tree {
            files: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
        }
        if let Ok(text) = fs::read(self.listing_path(commit)) {
            return serde_json::from_slice(&text).ok();
        }
        let tree = fs::read(self.directory().join("trees").join(format!("{commit}.json"))).ok()?;
        serde_json::from_slice::<Tree>(&tree).ok().map(|tree| tree.files.into_keys().collect())
    }

    /// Records all files of `commit`.
    pub(super) fn set_listing(&self, commit: &str, listing: &Listing) -> Result<()> {
        if self.listing(commit).as_ref() == Some(listing) {
            return Ok(());
        }
        let text = serde_json::to_vec(listing)
            .map_err(|e| Error::Hub(format!("cannot write the file names of {}: {e}", self.id)))?;
        write(&self.listing_path(commit), &text)
    }

    /// The files of `commit` whose bytes are here.
    pub(super) fn cached(&self, commit: &str) -> Listing {
        let mut found = Listing::new();
        walk(&self.snapshot(commit), "", MAX_DEPTH, &mut found);
        found
    }

    /// Waits until no other process writes the blob `etag`, and keeps others from it while the result lives. Python takes the
    /// same lock on the same file.
    pub(super) fn lock(&self, etag: &str, progress: &dyn Progress) -> Result<File> {
        let path = self.root.join(".locks").join(self.layout().folder_name()).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let failed = |e: io::Error| {
            Error::Hub(format!(
                "cannot lock {}: {e}; set HF_HUB_CACHE to a directory of a local disk",
                path.display()
            ))
        };
        let file = File::options().create(true).append(true).open(&path).map_err(Error::write(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!("waiting for another process that downloads a file of {}", self.id));
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        Ok(file)
    }

    /// Makes `file` of `commit` refer to the blob `etag`: by a relative link, or by a copy where links are not possible.
    pub(super) fn link(&self, commit: &str, file: &RepoPath, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file.to_path());
        make_parent(&path)?;
        let mut target: PathBuf = (0..file.depth() + 2).map(|_| "..").collect();
        target.extend(["blobs", etag]);
        match symlink(&target, &path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_file() => return Ok(()),
            // A link to a blob that was deleted.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path).map_err(Error::write(&path))?;
                if symlink(&target, &path).is_ok() {
                    return Ok(());
                }
            }
            Err(_) => {}
        }
        let blob = self.blob(etag);
        let mut bytes = File::open(&blob).map_err(Error::read(&blob))?;
        write_with(&path, |copy| io::copy(&mut bytes, copy).map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Silent;
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repository(root: &Path, id: &str) -> Repository {
        Repository::new(root, Kind::Dataset, &HubId::parse(id).unwrap())
    }

    #[test]
    fn blobs_are_linked_relatively_from_any_depth() {
        let root = tempfile::tempdir().unwrap();
        let repository = repository(root.path(), "o/n");
        let blob = repository.blob("e1");
        assert_eq!(blob, root.path().join("datasets--o--n/blobs/e1"));
        write(&blob, b"bytes").unwrap();
        for name in ["a.json", "x/y/b.json"] {
            let file = RepoPath::parse(name).unwrap();
            assert_eq!(repository.file(COMMIT, &file), None);
            repository.link(COMMIT, &file, "e1").unwrap();
            repository.link(COMMIT, &file, "e1").unwrap();
            assert_eq!(fs::read(repository.file(COMMIT, &file).unwrap()).unwrap(), b"bytes");
        }
        assert_eq!(repository.cached(COMMIT), Listing::from(["a.json".into(), "x/y/b.json".into()]));
        // A link whose blob is gone counts as missing, and is replaced.
        fs::remove_file(&blob).unwrap();
        assert_eq!(repository.cached(COMMIT), Listing::new());
        write(&repository.blob("e2"), b"other").unwrap();
        let file = RepoPath::parse("a.json").unwrap();
        repository.link(COMMIT, &file, "e2").unwrap();
        assert_eq!(fs::read(repository.file(COMMIT, &file).unwrap()).unwrap(), b"other");
    }

    #[test]
    fn refs_and_listings_are_remembered_and_checked() {
        let root = tempfile::tempdir().unwrap();
        let repository = repository(root.path(), "o/n@refs/pr/1");
        assert_eq!(repository.commit(), None);
        repository.set_commit(COMMIT).unwrap();
        assert_eq!(repository.commit().as_deref(), Some(COMMIT));
        fs::write(root.path().join("datasets--o--n/refs/refs/pr/1"), "../../x").unwrap();
        assert_eq!(repository.commit(), None);
        assert_eq!(self::repository(root.path(), &format!("o/n@{COMMIT}")).commit().as_deref(), Some(COMMIT));

        assert_eq!(repository.listing(COMMIT), None);
        let tree = root.path().join(format!("datasets--o--n/trees/{COMMIT}.json"));
        write(&tree, br#"{"format_version": 1, "files": {"a": {"size": 1, "blob_id": "x"}}}"#).unwrap();
        assert_eq!(repository.listing(COMMIT), Some(Listing::from(["a".into()])));
        repository.set_listing(COMMIT, &Listing::from(["b".into()])).unwrap();
        assert_eq!(repository.listing(COMMIT), Some(Listing::from(["b".into()])));
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let repository = repository(root.path(), "o/n");
        let held = repository.lock("e", &Silent).unwrap();
        let second = File::open(root.path().join(".locks/datasets--o--n/e.lock")).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        second.try_lock().unwrap();
    }
}
