//! Model and data set files from the Hugging Face Hub, or from its cache, which is shared with Python.
//!
//! ```no_run
//! use dpo_lora::hub::{Hub, HubId};
//!
//! let hub = Hub::from_env()?;
//! let model = hub.model(&HubId::parse("Qwen/Qwen2.5-0.5B-Instruct@main")?)?;
//! println!("{} is at {}", model.commit, model.directory.display());
//! # Ok::<(), dpo_lora::error::Error>(())
//! ```
//!
//! Only files that are needed and missing are downloaded, and nothing in offline mode. A file gets its name in the cache
//! when all of its bytes are there.

mod cache;
mod card;
mod connection;
mod dataset;
mod disk;
mod files;
mod formats;
mod http;
mod id;
mod path;
mod progress;
mod refusal;
mod retry;
mod settings;
mod snapshot;
mod split;
mod transfer;
mod upload;
mod url;

use std::fs;
use std::path::PathBuf;

use cache::{Kind, Repository};
use files::Plan;
use path::{Listing, RepoPath};
use snapshot::Revision;

pub use crate::http::Token;
pub use connection::Hub;
pub use dataset::DatasetRef;
pub use id::HubId;
pub use progress::{Progress, Silent};
pub use settings::{DEFAULT_ENDPOINT, Settings};
pub use snapshot::Snapshot;
pub use upload::{Content, Upload, files_of};

use crate::error::{Error, Result};

/// The files of a part of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFiles {
    /// Their directory.
    pub snapshot: Snapshot,
    /// The files of one format (Parquet, JSON or CSV), in the order of their names.
    pub files: Vec<PathBuf>,
}

impl Hub {
    /// The files of a causal language model: configuration, tokenizer and safetensors weights.
    ///
    /// # Errors
    /// [`Error::Hub`] if the repository cannot be reached or read, or has no such files; in offline mode, it names those that
    /// are not in the cache. [`Error::Weights`] if the index of the weights is invalid or names a file elsewhere.
    pub fn model(&self, id: &HubId) -> Result<Snapshot> {
        self.planned(id, "a model with safetensors weights", files::model)
    }

    /// The two files of a PEFT adapter.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn adapter(&self, id: &HubId) -> Result<Snapshot> {
        self.planned(id, "a PEFT adapter with safetensors weights", files::adapter)
    }

    /// The data files of a part of a data set: as its card assigns them, else by their names.
    ///
    /// # Errors
    /// As [`Hub::model`]; [`Error::Config`] if there is no such configuration or split, naming those that exist.
    pub fn dataset(&self, wanted: &DatasetRef) -> Result<DatasetFiles> {
        let repository = Repository::new(&self.settings.cache, Kind::Dataset, &wanted.id);
        let at = self.resolve(&repository)?;
        let card = self.card(&repository, &at)?;
        let (names, note) = dataset::select(wanted, &at.listing, &card).map_err(|error| at.explain(error))?;
        if let Some(note) = note {
            self.progress.note(&note);
        }
        let files = self.obtain(&repository, &at, &names)?;
        Ok(DatasetFiles { snapshot: self.finish(&repository, &at)?, files })
    }

    fn card(&self, repository: &Repository, at: &Revision) -> Result<Vec<card::CardConfig>> {
        let readme = RepoPath::parse("README.md").ok().filter(|file| at.listing.contains(file.as_str()));
        let Some(readme) = readme else { return Ok(Vec::new()) };
        let Some(path) = self.obtain(repository, at, &[readme])?.pop() else { return Ok(Vec::new()) };
        let text = fs::read(&path).map_err(Error::read(&path))?;
        Ok(card::configs(&String::from_utf8_lossy(&text)).unwrap_or_else(|why| {
            self.progress
                .note(&format!("the card of {} is not used: it is not valid YAML: {why}", repository.id));
            Vec::new()
        }))
    }

    fn planned(&self, id: &HubId, what: &str, plan: impl Fn(&Listing) -> Plan) -> Result<Snapshot> {
        let repository = Repository::new(&self.settings.cache, Kind::Model, id);
        let at = self.resolve(&repository)?;
        match plan(&at.listing) {
            Plan::Missing { files, instead } => {
                let instead = match instead.as_slice() {
                    [] => String::new(),
                    names => format!(" (it has {}, which cannot be read)", names.join(", ")),
                };
                return Err(at.explain(Error::Hub(format!(
                    "{id} has no {}{instead}; name {what}",
                    files.join(" and no ")
                ))));
            }
            Plan::Files { files, index } => {
                self.obtain(&repository, &at, &files)?;
                let path = index.and_then(|index| repository.file(&at.commit, &index));
                if let Some(path) = path {
                    self.obtain(&repository, &at, &files::shards(&path)?)?;
                }
            }
        }
        self.finish(&repository, &at)
    }
}
