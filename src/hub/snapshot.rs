//! From a revision to its commit, the names of its files, and the files in the cache.

use std::path::PathBuf;

use serde::Deserialize;

use super::cache::Repository;
use super::connection::Hub;
use super::http::{ENDPOINT, Failure, Method};
use super::id::is_commit;
use super::path::{Listing, RepoPath};
use super::retry::{give_up, retry};
use super::transfer::Transfer;
use crate::error::{Error, Result};

/// Limit of an answer about a revision: 100,000 file names.
const MAX_INFO: u64 = 32 << 20;

/// A directory with the files of a commit; possibly more than were asked for, since the cache is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The directory; files have their names in the repository.
    pub directory: PathBuf,
    /// The commit, 40 hexadecimal digits: as a revision it always gives the same files.
    pub commit: String,
}

/// A resolved revision.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) commit: String,
    /// All files of the commit, or with `known` false those in the cache.
    pub(super) listing: Listing,
    known: bool,
    /// Why the network is not used, if it is not.
    offline: Option<String>,
}

impl Revision {
    /// Adds to an error that it occurred without the network.
    pub(super) fn explain(&self, error: Error) -> Error {
        match (&self.offline, error) {
            (Some(reason), Error::Hub(text)) if !self.known => {
                Error::Hub(format!("{text}. Only the cache was searched: {reason}"))
            }
            (_, error) => error,
        }
    }
}

/// The Hub's answer about a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// The commit of the revision, and its files. They come from the Hub; from the cache for a commit whose files are
    /// known, in offline mode, and when the Hub cannot be reached.
    pub(super) fn resolve(&self, repository: &Repository) -> Result<Revision> {
        let cached = repository.commit().map(|commit| {
            let listing = repository.listing(&commit);
            let known = listing.is_some();
            let listing = listing.unwrap_or_else(|| repository.cached(&commit));
            Revision { commit, listing, known, offline: None }
        });
        if self.settings.offline {
            let reason = "HF_HUB_OFFLINE is set; unset it to download what is missing".to_owned();
            return match cached.filter(|revision| revision.known || !revision.listing.is_empty()) {
                Some(revision) => Ok(Revision { offline: Some(reason), ..revision }),
                None => Err(Error::Hub(format!(
                    "{} is not in the cache {}, and {reason}",
                    repository.id,
                    self.settings.cache.display()
                ))),
            };
        }
        let cached = cached.filter(|revision| !revision.listing.is_empty());
        let pinned = is_commit(repository.id.revision());
        if let Some(revision) = cached {
            if revision.known && pinned {
                return Ok(revision);
            }
            // With the cache as a fallback, a laptop without a network should not wait.
            return match retry(&self.client, 1, &*self.progress, |_| self.info(repository)) {
                Err(Failure::Passing(reason, _)) => {
                    let commit = &revision.commit;
                    let note = format!("{reason}; using {} at {commit} from the cache", repository.id);
                    self.progress.note(&note);
                    let reason = format!("the Hub could not be reached ({reason}); try again");
                    Ok(Revision { offline: Some(reason), ..revision })
                }
                answer => answer.map_err(|failure| give_up(failure, 1)),
            };
        }
        let attempts = self.client.attempts();
        retry(&self.client, attempts, &*self.progress, |_| self.info(repository))
            .map_err(|failure| give_up(failure, attempts))
    }

    fn info(&self, repository: &Repository) -> Result<Revision, Failure> {
        let answer = self.client.send(Method::Get, &repository.info_url(), 0)?;
        if answer.status() != 200 {
            return Err(self.client.refusal(&answer, repository, "repository"));
        }
        let body = answer.response.into_body().into_with_config().limit(MAX_INFO).reader();
        let info: Info = serde_json::from_reader(body).map_err(|e| {
            let (id, url) = (&repository.id, self.client.url(&repository.info_url()));
            match e.is_io() {
                true => Failure::passing(format!("{id}: the answer of {url} was cut: {e}")),
                false => Failure::hub(format!("{id}: {url} does not answer as a Hub does ({e}); {ENDPOINT}")),
            }
        })?;
        let asked = repository.id.revision();
        if !is_commit(&info.sha) || (is_commit(asked) && asked != info.sha) {
            return Err(Failure::hub(format!(
                "{}: the Hub answers with commit `{}`; is HF_ENDPOINT a Hub?",
                repository.id,
                info.sha.escape_default()
            )));
        }
        let listing = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Revision { commit: info.sha, listing, known: true, offline: None })
    }

    /// The paths of `files` in the cache, after downloading those that are missing.
    pub(super) fn obtain(
        &self,
        repository: &Repository,
        at: &Revision,
        files: &[RepoPath],
    ) -> Result<Vec<PathBuf>> {
        let missing: Vec<&RepoPath> =
            files.iter().filter(|file| repository.file(&at.commit, file).is_none()).collect();
        if let (Some(reason), false) = (&at.offline, missing.is_empty()) {
            let names: Vec<&str> = missing.iter().map(|file| file.as_str()).collect();
            return Err(Error::Hub(format!(
                "the cache {} lacks {} of {} at {}, and {reason}",
                self.settings.cache.display(),
                names.join(", "),
                repository.id,
                at.commit
            )));
        }
        let unknown: Vec<&str> =
            missing.iter().map(|file| file.as_str()).filter(|name| !at.listing.contains(*name)).collect();
        if !unknown.is_empty() {
            return Err(Error::Hub(format!(
                "{} at {} names {} but does not have it; the repository is incomplete, name another revision",
                repository.id,
                at.commit,
                unknown.join(", ")
            )));
        }
        for file in missing {
            let (client, progress) = (&self.client, &*self.progress);
            Transfer { client, progress, repository, commit: &at.commit, file }.run()?;
        }
        Ok(files.iter().map(|file| repository.snapshot(&at.commit).join(file.to_path())).collect())
    }

    /// Records the revision. In the cache, a branch moves only when all files of the new commit are there, so that an
    /// interrupted update leaves the old ones usable in offline mode.
    pub(super) fn finish(&self, repository: &Repository, at: &Revision) -> Result<Snapshot> {
        if at.offline.is_none() {
            let remembered = repository.set_listing(&at.commit, &at.listing).and_then(|()| {
                if is_commit(repository.id.revision()) { Ok(()) } else { repository.set_commit(&at.commit) }
            });
            // A cache that is complete may be read-only.
            if let Err(error) = remembered {
                self.progress.note(&format!("the revision of {} is not remembered: {error}", repository.id));
            }
        }
        Ok(Snapshot { directory: repository.snapshot(&at.commit), commit: at.commit.clone() })
    }
}
