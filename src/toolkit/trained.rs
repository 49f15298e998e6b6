//! How an adapter was trained: kept in its metadata, and used again wherever it is evaluated.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::adapter::{peft, read};
use crate::config::RunConfig;
use crate::data::{DataConfig, Sources, TruncationMode, template};
use crate::error::{Error, Result};
use crate::objective::{Objective, Reward};

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
        Ok(Self { objective: Some(config.objective.resolve()?), data: DataSettings::of(&config.data)? })
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

    /// Writes the settings as metadata of the adapter.
    ///
    /// # Errors
    /// If a number cannot be written.
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        let data = serde_json::to_string(&self.data).map_err(|e| Error::Adapter(e.to_string()))?;
        let mut entries = BTreeMap::from([(DATA.to_string(), data)]);
        if let Some(objective) = &self.objective {
            entries.insert(OBJECTIVE.into(), objective.to_json()?);
        }
        Ok(entries)
    }

    /// Reads the settings from an adapter's metadata. An adapter of another program has none; then nothing is
    /// truncated, and the base's own template is used.
    ///
    /// # Errors
    /// If the metadata are damaged.
    pub fn of(adapter: &Path) -> Result<Self> {
        let weights = read::located(adapter)?.join(peft::WEIGHTS);
        if !weights.is_file() {
            return Ok(Self::default());
        }
        let metadata = peft::metadata(&weights)?;
        let damaged = |key: &str, why: String| {
            Error::Adapter(format!("{}: the metadata {key} is damaged: {why}", weights.display()))
        };
        let objective = metadata.get(OBJECTIVE).map(|text| Objective::from_json(text)).transpose();
        let data = metadata.get(DATA).map(|text| serde_json::from_str(text)).transpose();
        Ok(Self {
            objective: objective.map_err(|error| damaged(OBJECTIVE, error.to_string()))?,
            data: data.map_err(|error| damaged(DATA, error.to_string()))?.unwrap_or_default(),
        })
    }
}
