//! A configuration file as the runs it describes: one, or one for each of its `stages`.
//!
//! The sections outside `stages` are common: a stage's own keys go over them, and `--set section.key=value` over both. A
//! parameter of the common `objective` applies to the stages whose loss has it. Each stage trains in a directory of its
//! own, `OUTPUT_DIR/NUMBER-NAME`, and begins with the adapter of the stage before.

mod addressed;
mod agreed;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::document::{Document, STAGES, show};
use super::stage::{self, Begins, Stage, Written, not_of_lora, written_of_lora};
use super::{RunConfig, defaults, text_of};
use crate::error::{Error, Problems, Result};
use crate::model::config::{LoraConfig, Reference};
use crate::model::initialisation::InitLoraWeights;
use crate::objective::ObjectiveConfig;
use crate::train::run_dir;
use addressed::{Addressed, parameter};

/// What `train` is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Recipe {
    /// One run.
    Single(Box<RunConfig>),
    /// Runs that follow one another.
    Staged(Staged),
}

/// Runs that follow one another.
#[derive(Clone, Debug, PartialEq)]
pub struct Staged {
    /// The directory of the whole run, which holds those of the stages, and the last adapter.
    pub output_dir: PathBuf,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

impl Recipe {
    /// The directory of the whole run.
    pub fn output_dir(&self) -> &Path {
        match self {
            Self::Single(config) => &config.output_dir,
            Self::Staged(staged) => &staged.output_dir,
        }
    }

    /// The configuration of the run, or of each stage.
    pub fn configs_mut(&mut self) -> Vec<&mut RunConfig> {
        match self {
            Self::Single(config) => vec![config],
            Self::Staged(staged) => staged.stages.iter_mut().map(|stage| &mut stage.config).collect(),
        }
    }

    /// Reads a YAML file as [`RunConfig::from_file`] does, with or without `stages`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, else as [`Recipe::from_yaml`].
    pub fn from_file(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let text = text_of(path)?;
        Self::from_yaml(&text, &path.display().to_string(), overrides)
    }

    /// Parses YAML text. `overrides` are as in [`RunConfig::from_yaml`] and go to every stage;
    /// `stages.NAME.section.key=value` goes to one.
    ///
    /// # Errors
    /// As [`RunConfig::from_yaml`], for every stage.
    pub fn from_yaml(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let written = serde_yaml::from_str::<Value>(text).ok();
        let Some(Value::Mapping(mut common)) = written.filter(|written| written.get(STAGES).is_some()) else {
            return RunConfig::from_yaml(text, origin, overrides).map(|one| Self::Single(Box::new(one)));
        };
        let list = match common.remove(STAGES) {
            Some(Value::Sequence(list)) if !list.is_empty() => list,
            other => {
                let found = other.as_ref().map_or_else(String::new, show);
                return Err(Error::Config(format!(
                    "{origin}: stages is {found}; expected a list such as [sft, dpo]"
                )));
            }
        };
        Reading { text, origin, defaults: &defaults()?, common }.stages(&list, overrides).map(Self::Staged)
    }

    /// The run, or the run of the last stage.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no stage.
    pub fn into_last(self) -> Result<RunConfig> {
        match self {
            Self::Single(config) => Ok(*config),
            Self::Staged(mut staged) => staged
                .stages
                .pop()
                .map(|stage| stage.config)
                .ok_or_else(|| Error::Config("stages is empty".into())),
        }
    }
}

impl Staged {
    /// Returns the directory of a stage, counted from 0.
    pub fn directory(output_dir: &Path, index: usize, name: &str) -> PathBuf {
        output_dir.join(run_dir::stage_name(index, name))
    }

    /// Returns the resolved configuration: the common keys, and every other key in its stage. Reading it back gives the
    /// same stages.
    ///
    /// # Errors
    /// [`Error::Config`] if a path is not UTF-8.
    pub fn to_yaml(&self) -> Result<String> {
        let broken = |error| Error::Config(format!("the configuration cannot be written as YAML: {error}"));
        let mut all = Mapping::new();
        let mut list = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let Value::Mapping(mut keys) = serde_yaml::to_value(&stage.config).map_err(broken)? else {
                continue;
            };
            keys.remove("output_dir");
            let common =
                ["seed", "model"].map(|key| (Value::from(key), keys.remove(key).unwrap_or_default()));
            let mut own = Mapping::from_iter([("name".into(), stage.name.clone().into())]);
            if index == 0 {
                let place = serde_yaml::to_value(&self.output_dir).map_err(broken)?;
                all.insert("output_dir".into(), place);
                all.extend(common);
            } else {
                own.insert("adapter".into(), stage.begins.to_string().into());
                if let Some(Value::Mapping(lora)) = keys.get_mut("lora") {
                    lora.retain(|key, _| written_of_lora(stage.begins, &show(key)));
                }
            }
            own.extend(keys);
            list.push(Value::Mapping(own));
        }
        all.insert(STAGES.into(), Value::Sequence(list));
        serde_yaml::to_string(&all).map_err(broken)
    }
}

/// A file that is being read.
struct Reading<'a> {
    text: &'a str,
    origin: &'a str,
    defaults: &'a Value,
    /// The keys outside `stages`.
    common: Mapping,
}

impl Reading<'_> {
    fn stages(&self, list: &[Value], overrides: &[String]) -> Result<Staged> {
        let written = self.written(list)?;
        let Addressed { global, own } = Addressed::divide(overrides, &written)?;
        self.check_common(&written, &global, &own)?;
        let mut problems = Problems::default();
        let mut stages: Vec<Stage> = Vec::new();
        for (index, stage) in written.iter().enumerate() {
            match self.stage(index, stage, (&global, &own[index]), &stages) {
                Ok(stage) => stages.push(stage),
                Err(error) => problems.absorb(Err(error)),
            }
        }
        problems.finish()?;
        agreed::check(self.origin, &stages)?;
        let output_dir = stages.first().and_then(|stage| stage.config.output_dir.parent());
        Ok(Staged { output_dir: output_dir.unwrap_or(Path::new("")).to_path_buf(), stages })
    }

    /// The stages as they are written, each key of which is checked by itself.
    fn written(&self, list: &[Value]) -> Result<Vec<Written>> {
        let common = Value::Mapping(self.common.clone());
        let mut problems = Problems::default();
        problems.absorb(Document::of(common, self.text, self.origin, self.defaults).check::<RunConfig>());
        let mut written: Vec<Written> = Vec::new();
        for (index, (value, text)) in list.iter().zip(stage::texts(self.text, list.len())).enumerate() {
            match Written::read(index, value, text, self.origin) {
                Ok(stage) => {
                    problems.absorb(self.check_own(index, &stage));
                    problems.require(written.iter().all(|other| other.name != stage.name), || {
                        format!(
                            "{}: two stages are called {}; give one another name",
                            self.origin, stage.name
                        )
                    });
                    written.push(stage);
                }
                Err(error) => problems.absorb(Err(error)),
            }
        }
        problems.finish().map(|()| written)
    }

    /// How errors name a stage.
    fn place(&self, index: usize, name: &str) -> String {
        format!("{}: stages[{index}] ({name})", self.origin)
    }

    /// Checks the keys of a stage by themselves.
    fn check_own(&self, index: usize, stage: &Written) -> Result<()> {
        let sections = Value::Mapping(stage.sections.clone());
        let place = self.place(index, &stage.name);
        let mut problems = Problems::default();
        problems.absorb(
            Document::of(sections, &stage.text, self.origin, self.defaults)
                .check::<RunConfig>()
                .map_err(|error| stage::located(&format!("stages[{index}] ({})", stage.name), error)),
        );
        problems.require(index > 0 || stage.begins.is_none(), || {
            format!("{place}: adapter is set, and there is no stage before the first; remove the line")
        });
        let begins = stage.begins.unwrap_or_default();
        let lora = stage.sections.get("lora").and_then(Value::as_mapping).into_iter().flatten();
        for key in lora.map(|(key, _)| show(key)).filter(|key| index > 0 && !written_of_lora(begins, key)) {
            problems.add(format!("{place}: {}", not_of_lora(begins, &key)));
        }
        problems.finish()
    }

    /// Checks the settings for all stages by themselves, and that each common parameter of a loss, of the file or of the
    /// command line, is one of some stage's loss.
    fn check_common(&self, written: &[Written], global: &[String], own: &[Vec<String>]) -> Result<()> {
        let common = Value::Mapping(self.common.clone());
        Document::of(common, self.text, self.origin, self.defaults)
            .with_overrides(global)?
            .check::<RunConfig>()?;
        let used: BTreeSet<String> = written
            .iter()
            .zip(own)
            .flat_map(|(stage, own)| ObjectiveConfig::keys_of(&self.losses(stage, &[global, own].concat())))
            .collect();
        let mut problems = Problems::default();
        let has_own = |stage: &Written| stage.losses().is_some();
        for key in ["loss_type", "loss_weights"].into_iter().filter(|_| written.iter().all(has_own)) {
            problems.require(!self.objective().contains_key(key), || {
                format!(
                    "{}: objective.{key} is set, and every stage has a loss of its own, by its name or by its loss_type; \
                     remove the line, or set it in a stage",
                    self.origin
                )
            });
        }
        for key in self.objective().keys().map(show).filter(|key| !used.contains(key)) {
            problems.add(format!(
                "{}: objective.{key} is set, and the loss of no stage has such a parameter; remove the line",
                self.origin
            ));
        }
        for key in global.iter().filter_map(|setting| parameter(setting)).filter(|key| !used.contains(*key)) {
            problems.add(format!(
                "objective.{key} is set on the command line, and the loss of no stage has such a parameter; leave it out"
            ));
        }
        problems.finish()
    }

    fn objective(&self) -> Mapping {
        self.common.get("objective").and_then(Value::as_mapping).cloned().unwrap_or_default()
    }

    /// The losses of a stage.
    fn losses(&self, stage: &Written, overrides: &[String]) -> Vec<String> {
        let asked = overrides.iter().rev().find_map(|o| o.trim().strip_prefix("objective.loss_type="));
        let asked = asked.and_then(|value| serde_yaml::from_str::<Value>(value).ok());
        let common = || self.objective().get("loss_type").map(stage::names);
        asked.as_ref().map(stage::names).or_else(|| stage.losses()).or_else(common).unwrap_or_default()
    }

    /// The run of a stage.
    fn stage(
        &self,
        index: usize,
        written: &Written,
        (global, own): (&[String], &[String]),
        before: &[Stage],
    ) -> Result<Stage> {
        let place = self.place(index, &written.name);
        let overrides = [global, own].concat();
        let losses = self.losses(written, &overrides);
        if losses.is_empty() {
            return Err(Error::Config(format!(
                "{place}: the stage has no loss: {} is not the name of one; set objective.loss_type",
                written.name
            )));
        }
        let keys = ObjectiveConfig::keys_of(&losses);
        let mut document = self.common.clone();
        let mut objective = self.objective();
        objective.retain(|key, _| keys.contains(&show(key)));
        if written.losses().is_some() {
            objective.remove("loss_weights");
            objective.insert("loss_type".into(), losses.iter().map(String::as_str).collect());
        }
        document.insert("objective".into(), Value::Mapping(objective));
        for (section, own) in &written.sections {
            let common = document.entry(section.clone()).or_insert_with(|| Mapping::new().into());
            if common.is_null() {
                *common = Mapping::new().into();
            }
            if let (Value::Mapping(common), Value::Mapping(own)) = (common, own) {
                common.extend(own.clone());
            }
        }
        // A parameter that is set for all stages does not apply to a loss without it.
        let applies = |setting: &&String| parameter(setting).is_none_or(|key| keys.contains(key));
        let overrides: Vec<String> = global.iter().filter(applies).chain(own).cloned().collect();
        let document = Document::of(Value::Mapping(document), "", &place, self.defaults);
        let config = document.with_overrides(&overrides)?.read()?;
        let begins = written.begins.unwrap_or_default();
        let mut stage = follow(Stage { name: written.name.clone(), begins, config }, index, before);
        // What a stage has from those before it is checked with the rest.
        stage.config = stage.config.checked(&place)?;
        Ok(stage)
    }
}

/// Gives a stage its directory and the adapters of the stages before.
fn follow(mut stage: Stage, index: usize, before: &[Stage]) -> Stage {
    let config = &mut stage.config;
    config.output_dir = Staged::directory(&config.output_dir, index, &stage.name);
    let Some(last) = before.last() else { return stage };
    let adapter = last.config.output_dir.join("adapter");
    config.model.adapter.clone_from(&last.config.model.adapter);
    match stage.begins {
        Begins::Continue => {
            let LoraConfig { lora_dropout, reference, .. } = config.lora;
            config.lora = LoraConfig {
                lora_dropout,
                reference,
                init_from: Some(adapter),
                // It begins with an adapter that is trained already, whatever that one began with.
                init_lora_weights: InitLoraWeights::default(),
                eva_config: None,
                modules_to_save: None,
                trainable_token_indices: None,
                prefix_tuning: None,
                adapter_layers: None,
                ..last.config.lora.clone()
            };
        }
        Begins::Stack => {
            // It begins with B = 0, whatever the stages before did.
            config.lora.init_from = None;
            config.lora.reference = Reference::default();
            config.model.adapter.push(adapter);
        }
    }
    stage
}

#[cfg(test)]
mod tests;
