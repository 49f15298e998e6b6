//! How an adapter was trained: kept in its metadata, and used again wherever it is evaluated.

mod beneath;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::beneath::Beneath;
use crate::adapter::read;
use crate::config::RunConfig;
use crate::data::{DataConfig, Sources, TruncationMode, template};
use crate::error::{Error, Result};
use crate::objective::{Objective, Reward, Sigmoid};

/// Metadata key of the objective, one line of JSON.
const OBJECTIVE: &str = "dpo_lora.objective";

/// Metadata key of how records became tokens, one line of JSON.
const DATA: &str = "dpo_lora.data";

/// What an adapter was trained with, as far as evaluating it depends on it.
#[derive(Clone, Debug, Default)]
pub struct TrainedWith {
    /// The loss and its parameters; `None` if it is not known.
    pub objective: Option<Objective>,
    /// How records became tokens.
    pub data: DataSettings,
    /// The frozen adapters that it was trained above, in order.
    pub frozen: Vec<Beneath>,
}

/// How records became tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataSettings {
    /// Most tokens of a sequence.
    pub max_length: Option<usize>,
    /// Most tokens of a prompt.
    pub max_prompt_length: Option<usize>,
    /// Which end of a sequence that is too long is kept.
    pub truncation_mode: TruncationMode,
    /// The text of the chat template, if it is not the base's own.
    pub chat_template: Option<String>,
    /// What `strftime_now` gives the template.
    pub chat_template_date: Option<String>,
}

impl DataSettings {
    fn of(config: &DataConfig) -> Result<Self> {
        Ok(Self {
            max_length: config.max_length,
            max_prompt_length: config.max_prompt_length,
            truncation_mode: config.truncation_mode,
            chat_template: config.chat_template.as_deref().map(template::portable),
            chat_template_date: config.chat_template_date.clone(),
        })
    }

    /// Returns the settings to read `sources` with.
    pub(crate) fn reading(&self, sources: Sources) -> DataConfig {
        let Self { max_length, max_prompt_length, truncation_mode, .. } = *self;
        DataConfig { max_length, max_prompt_length, truncation_mode, ..DataConfig::new(sources) }
    }
}

impl TrainedWith {
    /// Reads the settings from a run's configuration.
    ///
    /// # Errors
    /// If its objective is invalid or its template cannot be read.
    pub fn configured(config: &RunConfig) -> Result<Self> {
        let (objective, data) = (Some(config.objective.resolve()?), DataSettings::of(&config.data)?);
        Ok(Self { objective, data, frozen: Vec::new() })
    }

    /// Returns the settings that the adapter of a run notes, with the frozen adapters that it is trained above.
    ///
    /// # Errors
    /// As [`TrainedWith::configured`]; or if a frozen adapter cannot be read.
    pub(crate) fn of_run(config: &RunConfig) -> Result<Self> {
        Ok(Self { frozen: beneath::of_run(config)?, ..Self::configured(config)? })
    }

    /// Returns the settings of an adapter that is a reward model or is not. One of another program has the loss of its
    /// kind. What was trained on drawn completions has no loss of given ones.
    ///
    /// # Errors
    /// If they are of an adapter of the other kind.
    pub(crate) fn fitting(mut self, is_reward: bool) -> Result<Self> {
        // Given pairs have no such loss: they are evaluated as by an adapter whose loss is not known.
        if self.objective.as_ref().is_some_and(|objective| objective.on_policy().is_some()) {
            self.objective = None;
        }
        match &self.objective {
            Some(objective) if objective.needs().rewards && !is_reward => Err(Error::Adapter(
                "the settings are those of a reward model, and the adapter has no scalar head (score)".into(),
            )),
            Some(objective) if is_reward && !objective.needs().rewards => Err(Error::Adapter(format!(
                "the adapter is a reward model, and the settings are those of another loss: {}",
                objective.to_json()?
            ))),
            None if is_reward => {
                self.objective = Some(Objective::new(Reward::default()));
                Ok(self)
            }
            Some(_) | None => Ok(self),
        }
    }

    /// Returns the loss by which rewards are computed: that of the training. An adapter that notes none has DPO's with its
    /// usual β, and a warning names the adapter and the remedy.
    pub fn objective_of(&self, adapter: &dyn Display, remedy: &str) -> Objective {
        self.objective.clone().unwrap_or_else(|| {
            log::warn!(
                "{adapter} does not say with which loss of pairs it was trained: sigmoid with beta {} is assumed; {remedy}",
                Sigmoid::default().beta
            );
            Objective::default()
        })
    }

    /// Writes the settings as metadata of the adapter. Where nothing is known of its training, nothing is said of it.
    ///
    /// # Errors
    /// If a number cannot be written.
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        let mut entries = BTreeMap::new();
        if self.objective.is_some() || self.data != DataSettings::default() {
            let data = serde_json::to_string(&self.data).map_err(|e| Error::Adapter(e.to_string()))?;
            entries.insert(DATA.to_string(), data);
        }
        if let Some(objective) = &self.objective {
            entries.insert(OBJECTIVE.into(), objective.to_json()?);
        }
        entries.extend(beneath::entry(&self.frozen)?);
        Ok(entries)
    }

    /// Reads the settings of an adapter that is used alone. Warns if it was trained above frozen adapters.
    ///
    /// # Errors
    /// If the metadata are damaged.
    pub fn of(adapter: &Path) -> Result<Self> {
        let found = Self::read(adapter)?;
        let used = [(adapter.to_path_buf(), found.frozen.clone())];
        let is_reward = found.objective.as_ref().is_some_and(|objective| objective.needs().rewards);
        beneath::missing(&used)?.iter().for_each(|missing| log::warn!("{}", missing.of_single(is_reward)));
        Ok(found)
    }

    /// Reads the settings of adapters that are used together: those of the one that was trained last, above the others. If
    /// no adapter notes that, it is the last one in order; a warning then says that others had other settings.
    ///
    /// # Errors
    /// As [`TrainedWith::of`].
    pub fn of_all(adapters: &[PathBuf]) -> Result<Self> {
        let found = Self::last_of(adapters, Some("are used. --config RUN/config.yaml takes those of a run"))?;
        Ok(found.map(|(_, found)| found).unwrap_or_default())
    }

    /// Returns the settings that one adapter made of these notes: as [`TrainedWith::of_all`], above the frozen adapters that
    /// are not among them, of which it warns.
    ///
    /// # Errors
    /// As [`TrainedWith::of`].
    pub(crate) fn of_one_made_of(adapters: &[PathBuf]) -> Result<Self> {
        let frozen = Self::warn_of_missing(adapters)?;
        let found = Self::last_of(adapters, Some("are noted in what is written"))?;
        Ok(Self { frozen, ..found.map(|(_, found)| found).unwrap_or_default() })
    }

    /// Returns the adapter that was trained last and its settings; `None` of none. If others had other settings, a warning
    /// says what becomes of these.
    fn last_of(adapters: &[PathBuf], becomes: Option<&str>) -> Result<Option<(PathBuf, Self)>> {
        let mut all = adapters.iter().map(|path| Self::read(path)).collect::<Result<Vec<_>>>()?;
        let Some(last) = trained_last(&all) else { return Ok(None) };
        let used = &all[last];
        let differs = |other: &Self| {
            other.objective.is_some()
                && other.frozen.len() >= used.frozen.len()
                && (other.objective != used.objective || other.data != used.data)
        };
        if let Some(becomes) = becomes.filter(|_| all.iter().any(differs)) {
            log::warn!(
                "the adapters were trained with different losses or data settings; those of {}, the last one, {becomes}",
                adapters[last].display()
            );
        }
        Ok(Some((adapters[last].clone(), all.swap_remove(last))))
    }

    /// Warns of adapters that were trained above frozen ones which are not among them. Returns these, by which one adapter
    /// that is made of the others goes on to say so.
    ///
    /// # Errors
    /// As [`TrainedWith::of`].
    pub(crate) fn warn_of_missing(adapters: &[PathBuf]) -> Result<Vec<Beneath>> {
        let missing = missing(adapters)?;
        missing.iter().for_each(|missing| log::warn!("{}", missing.of_command()));
        let mut noted: Vec<Beneath> = missing.into_iter().flat_map(|missing| missing.noted).collect();
        let mut seen = BTreeSet::new();
        noted.retain(|beneath| seen.insert(beneath.hash.clone()));
        Ok(noted)
    }

    /// Warns if an adapter of a run was trained above frozen ones that the run does not have.
    ///
    /// # Errors
    /// As [`TrainedWith::of`].
    pub(crate) fn warn_of_run(config: &RunConfig) -> Result<()> {
        let adapters: Vec<PathBuf> =
            config.model.adapter.iter().chain(&config.lora.init_from).cloned().collect();
        missing(&adapters)?.iter().for_each(|missing| log::warn!("{}", missing.of_run()));
        Ok(())
    }

    /// Returns what is wrong with uploading an adapter alone: that it was trained above others.
    ///
    /// # Errors
    /// As [`TrainedWith::of`].
    pub(crate) fn uploaded_alone(adapter: &Path) -> Result<Vec<String>> {
        let missing = missing(&[adapter.to_path_buf()])?;
        Ok(missing.iter().map(beneath::Missing::of_upload).collect())
    }

    /// Reads the settings from an adapter's metadata, of any format. An adapter of another program has none; then nothing is
    /// truncated, and the base's own template is used.
    ///
    /// # Errors
    /// If the metadata are damaged.
    pub(crate) fn read(adapter: &Path) -> Result<Self> {
        let (file, metadata) = read::noted(adapter)?;
        let damaged = |key: &str, why: String| {
            Error::Adapter(format!("{}: the metadata {key} is damaged: {why}", file.display()))
        };
        let objective = metadata.get(OBJECTIVE).map(|text| Objective::from_json(text)).transpose();
        let data = metadata.get(DATA).map(|text| serde_json::from_str(text)).transpose();
        Ok(Self {
            objective: objective.map_err(|error| damaged(OBJECTIVE, error.to_string()))?,
            data: data.map_err(|error| damaged(DATA, error.to_string()))?.unwrap_or_default(),
            frozen: beneath::parsed(&metadata)
                .map_err(|error| damaged(beneath::FROZEN, error.to_string()))?,
        })
    }
}

/// Those of the adapters that are used without a frozen one below them.
fn missing(adapters: &[PathBuf]) -> Result<Vec<beneath::Missing>> {
    let frozen = |path: &PathBuf| Ok((path.clone(), TrainedWith::read(path)?.frozen));
    beneath::missing(&adapters.iter().map(frozen).collect::<Result<Vec<_>>>()?)
}

/// The index of the adapter that was trained last: the one above the most others, else the last one whose training is
/// known. The head of a reward model decides what the loss is, wherever it is named.
fn trained_last(all: &[TrainedWith]) -> Option<usize> {
    (0..all.len()).max_by_key(|index| {
        let TrainedWith { objective, frozen, .. } = &all[*index];
        let is_reward = objective.as_ref().is_some_and(|objective| objective.needs().rewards);
        (is_reward, objective.is_some(), frozen.len(), *index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::Ipo;

    #[test]
    fn what_is_not_known_is_not_noted() {
        assert_eq!(TrainedWith::default().metadata().unwrap(), BTreeMap::new());
        let objective = Some(Objective::new(Ipo::default()));
        let known = TrainedWith { objective, ..TrainedWith::default() };
        assert_eq!(known.metadata().unwrap().into_keys().collect::<Vec<_>>(), [DATA, OBJECTIVE]);
        assert_eq!(known.objective_of(&"mine", ""), Objective::new(Ipo::default()));
        assert_eq!(TrainedWith::default().objective_of(&"theirs", ""), Objective::default());
    }

    #[test]
    fn the_settings_are_those_of_the_adapter_that_was_trained_last() {
        let of = |objective: Option<Objective>, frozen: usize| {
            let beneath = Beneath { path: "a".into(), hash: "b".into() };
            TrainedWith { objective, frozen: vec![beneath; frozen], ..TrainedWith::default() }
        };
        let (ipo, dpo) = (Some(Objective::new(Ipo::default())), Some(Objective::new(Sigmoid::default())));
        let reward = Some(Objective::new(Reward::default()));
        assert_eq!(trained_last(&[]), None);
        assert_eq!(trained_last(&[of(ipo.clone(), 0), of(dpo.clone(), 0)]), Some(1), "the last one named");
        assert_eq!(
            trained_last(&[of(ipo.clone(), 1), of(dpo.clone(), 0)]),
            Some(0),
            "the one above the other"
        );
        assert_eq!(trained_last(&[of(ipo, 0), of(None, 0)]), Some(0), "the one whose loss is known");
        assert_eq!(trained_last(&[of(reward, 0), of(dpo, 1)]), Some(0), "the reward model");
    }
}
