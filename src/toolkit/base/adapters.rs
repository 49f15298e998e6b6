//! Adapters for a base: those that were trained on another are refused, with both names.

use std::path::Path;

use super::{AdapterUse, Base, left};
use crate::adapter;
use crate::adapter::read::Reading;
use crate::error::{Error, Result};
use crate::trainable::Adapters;

impl Base {
    /// Reads an adapter for this base; one that records other weights as its base is refused.
    ///
    /// # Errors
    /// As [`adapter::read::read`], or if the adapter belongs to another base and `force` is not given.
    pub fn adapter(&self, path: &Path, force: bool) -> Result<Adapters> {
        self.adapter_for(path, AdapterUse { force, ..AdapterUse::default() })
    }

    /// As [`Base::adapter`], for a purpose.
    ///
    /// # Errors
    /// As [`Base::adapter`]; or if the adapter is to be taken off the very base it was trained on, or cannot be taken off.
    pub fn adapter_for(&self, path: &Path, purpose: AdapterUse) -> Result<Adapters> {
        let path = &adapter::read::located(path)?;
        let force = purpose.force || self.forced;
        let Self { source, .. } = self;
        let reading = Reading { head: purpose.head, score: purpose.score, force, base: Some(&**source) };
        let found =
            adapter::read::read_for(path, &self.spec, reading).map_err(|misfit| self.misfit(path, misfit))?;
        log::debug!(
            "adapter: {}, {} modules, {} parameters, trained on {}",
            path.display(),
            found.adapters.len(),
            found.adapters.values().len(),
            found.base.as_deref().unwrap_or("a base that it does not name")
        );
        found.notes.iter().for_each(|note| log::info!("{}: {note}", path.display()));
        if purpose.unmerge {
            left::check_removable(path, &found.adapters)?;
        }
        let Some(its) = &found.fingerprint else { return Ok(found.adapters) };
        let ours = self.fingerprint()?;
        let (shown, name) = (path.display(), found.base.unwrap_or_else(|| "another base".into()));
        match (purpose.unmerge, *its == ours) {
            (false, true) | (true, false) => Ok(found.adapters),
            (true, true) if force => Ok(found.adapters),
            (true, true) => Err(Error::Adapter(format!(
                "{} is the base that {shown} was trained on: there is nothing to remove; name the merged model as \
                 the base, or insist with --force",
                self.name
            ))),
            (false, false) => {
                let ours_sketched = self.sketch();
                let twin =
                    found.sketch.as_ref().and_then(|sketch| Some((sketch, sketch.twin(&ours_sketched)?)));
                if let Some((sketch, apart)) = twin {
                    log::warn!(
                        "{shown} was trained on {name}, stored as {}; {} seems to hold the same weights stored as {} \
                         (they differ by {apart}, as rounding does), so the adapter is used; a fine-tuned copy can differ as \
                         little, so make sure that it is the same model",
                        sketch.storage(),
                        self.name,
                        ours_sketched.storage()
                    );
                    return Ok(found.adapters);
                }
                if force {
                    log::warn!("{}; it is used because of --force", self.another(path, &name, its, &ours));
                    return Ok(found.adapters);
                }
                let remedy = "name the right base, or insist with --force";
                let message = format!("{}; {remedy}", self.another(path, &name, its, &ours));
                Err(self.wrong_base(path, name, message))
            }
        }
    }

    /// An adapter that does not fit is most often another base's: then both are named first.
    fn misfit(&self, path: &Path, misfit: Error) -> Error {
        match (adapter::read::origin(path), self.fingerprint()) {
            (Some((name, its)), Ok(ours)) if its != ours => {
                let another = self.another(path, &name, &its, &ours);
                let message = format!("{another}, which it does not fit; name the right base:\n{misfit}");
                self.wrong_base(path, name, message)
            }
            _ => misfit,
        }
    }

    fn wrong_base(&self, adapter: &Path, trained_on: String, message: String) -> Error {
        Error::WrongBase { adapter: adapter.to_path_buf(), trained_on, base: self.name.clone(), message }
    }

    fn another(&self, adapter: &Path, name: &str, its: &str, ours: &str) -> String {
        let (shown, its, ours) = (adapter.display(), short(its), short(ours));
        format!("{shown} was trained on {name} (weights {its}), but {} has the weights {ours}", self.name)
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
