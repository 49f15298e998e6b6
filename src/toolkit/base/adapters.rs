//! Adapters for a base: those that were trained on another are refused, with both names, and so are those that were trained on
//! the same weights with other settings.

use std::path::Path;

use super::{AdapterUse, Base, Place, left};
use crate::adapter;
use crate::adapter::fingerprint::{ARCHITECTURE_KEY, Architecture, Compared};
use crate::adapter::read::Reading;
use crate::error::{Error, Result};
use crate::trainable::Adapters;

impl Base {
    /// Reads an adapter for this base; one that records other weights as its base is refused.
    ///
    /// # Errors
    /// As [`adapter::read::read`], or if the adapter belongs to another base, or to other settings of this one, and `force` is
    /// not given.
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
            (true, false) => Ok(found.adapters),
            (false, true) => self.check_architecture(path, force).map(|()| found.adapters),
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
                    if let Some(said) = self.changed(path, Compared::Roughly) {
                        log::warn!("{said}; make sure that both are meant to compute the same");
                    }
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

    /// Returns the settings that this base computes with.
    pub(super) fn architecture(&self) -> Architecture {
        Architecture::of(&self.spec)
    }

    /// Checks that this base, whose weights are those that an adapter was trained on, still has the settings that the adapter
    /// notes; with `force` it is warned of. An adapter that notes none passes.
    ///
    /// # Errors
    /// If a setting that changes the result is another one; the error names it.
    pub fn check_architecture(&self, adapter: &Path, force: bool) -> Result<()> {
        let Some(said) = self.changed(adapter, Compared::Exactly) else { return Ok(()) };
        if force || self.forced {
            log::warn!("{said}; it is used because of --force");
            return Ok(());
        }
        Err(Error::Adapter(format!(
            "{said}. Since then this has changed, or this version reads it in another way; undo the change, or insist with \
             --force"
        )))
    }

    /// Names the settings that differ from those that an adapter notes of its base.
    fn changed(&self, adapter: &Path, compared: Compared) -> Option<String> {
        let (_, metadata) = adapter::read::noted(adapter).ok()?;
        // A damaged note helps nobody; the fingerprint decides.
        let noted = Architecture::from_text(metadata.get(ARCHITECTURE_KEY)?)?;
        let differences = noted.differences(&self.architecture(), compared);
        let place = match &self.place {
            Place::Directory(directory) => directory.join("config.json").display().to_string(),
            Place::Gguf(_) => format!("the metadata of {}", self.name),
        };
        (!differences.is_empty()).then(|| {
            format!(
                "{} was trained with other settings than those in {place}: {}",
                adapter.display(),
                differences.join("; ")
            )
        })
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
