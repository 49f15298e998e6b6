//! `RunConfig`: the YAML file of a run. Composes each room's own configuration and checks across rooms.

mod document;
mod idle;
mod nested;
mod recipe;
mod resume;
mod stage;
mod typed;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{DataConfig, EvalSource, Sources};
use crate::error::{Error, Problems, Result};
use crate::files;
use crate::model::config::{LoraConfig, ModelConfig, Reference};
use crate::model::initialisation::InitLoraWeights;
use crate::objective::{Objective, ObjectiveConfig};
use crate::reward::Spec;
use crate::rollout::{Drawing, RolloutConfig};
use crate::train::batches;
use crate::train::config::TrainConfig;
use crate::train::optimizer::OptimizerKind;
use crate::train::rollouts;
use crate::train::watch::WatchConfig;

use document::Document;
pub use recipe::{Recipe, Staged};
pub use stage::{Begins, Stage};

/// The settings of a run. Relative paths are relative to the working directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The run directory.
    pub output_dir: PathBuf,
    /// The seed of every random stream of the run.
    pub seed: u64,
    /// The frozen base.
    pub model: ModelConfig,
    /// The trainable adapter.
    pub lora: LoraConfig,
    /// The preferences.
    pub data: DataConfig,
    /// The loss.
    pub objective: ObjectiveConfig,
    /// How completions are drawn, if the policy draws them.
    pub rollout: RolloutConfig,
    /// The optimization.
    pub train: TrainConfig,
    /// What a run warns about.
    pub watch: WatchConfig,
}

impl RunConfig {
    /// The defaults, with the two keys that have none.
    pub fn new(base: impl Into<String>, train: impl Into<Sources>) -> Self {
        Self {
            output_dir: "runs/dpo".into(),
            seed: 42,
            model: ModelConfig { base: base.into(), ..ModelConfig::default() },
            lora: LoraConfig::default(),
            data: DataConfig::new(train.into()),
            objective: ObjectiveConfig::from(&Objective::default()),
            rollout: RolloutConfig::default(),
            train: TrainConfig::default(),
            watch: WatchConfig::default(),
        }
    }

    /// Reads a YAML file and applies `overrides`, each `section.key=value` with the value in YAML.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, else as [`RunConfig::from_yaml`].
    pub fn from_file(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let text = text_of(path)?;
        Self::from_yaml(&text, &path.display().to_string(), overrides)
    }

    /// Parses YAML text as [`RunConfig::from_file`] does; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] with one line for every unknown key (and the nearest known one), value of the wrong type,
    /// missing key and invalid value.
    pub fn from_yaml(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let defaults = defaults()?;
        let document = Document::new(text, origin, &defaults)?.with_overrides(overrides)?;
        document.read::<Self>()?.checked(origin)
    }

    /// Validates it, and sets every parameter of its losses.
    fn checked(mut self, origin: &str) -> Result<Self> {
        let located = |error| Error::Config(format!("{origin}: {error}"));
        self.validate().map_err(located)?;
        self.objective = ObjectiveConfig::from(&self.objective.resolve().map_err(located)?);
        Ok(self)
    }

    /// Returns the resolved configuration: every key with its value. Reading it back gives the same configuration.
    ///
    /// # Errors
    /// [`Error::Config`] if a path is not UTF-8.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(self)
            .map_err(|error| Error::Config(format!("the configuration cannot be written as YAML: {error}")))
    }

    /// # Errors
    /// [`Error::Config`] naming every invalid value, in one room or between two, and its remedy.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::default();
        problems.require(!self.output_dir.as_os_str().is_empty(), || {
            "output_dir is empty; name a directory such as runs/dpo".into()
        });
        problems.absorb(self.model.validate());
        problems.absorb(self.lora.validate());
        problems.absorb(self.data.validate());
        problems.absorb(self.objective.validate());
        problems.absorb(self.train.validate());
        problems.absorb(self.watch.validate());
        if let Ok(objective) = self.objective.resolve() {
            problems.absorb(batches::check(&self.train, objective.needs()));
            self.check_rollouts(&objective, &mut problems);
        }
        let from_base = self.lora.init_from.is_some() && self.lora.reference == Reference::Base;
        let is_pissa = matches!(self.lora.init_lora_weights, InitLoraWeights::Pissa(_));
        problems.require(!(self.train.sync_ref_model && is_pissa), || {
            "train.sync_ref_model is true, and lora.init_lora_weights is pissa, whose matrices are not those of the reference; \
             write init_lora_weights: true or eva"
                .into()
        });
        problems.require(!(self.train.optim == OptimizerKind::Muon && self.lora.modules_to_save.is_some()), || {
            "train.optim is muon, which is not made for embeddings and heads, and lora.modules_to_save is set; write optim: adamw"
                .into()
        });
        problems.require(!(self.train.sync_ref_model && self.lora.prefix_tuning.is_some()), || {
            "train.sync_ref_model is true, and lora.prefix_tuning is set, whose reference has no prefix that could move; use LoRA"
                .into()
        });
        problems.require(!(self.train.sync_ref_model && from_base), || {
            "train.sync_ref_model is true, and lora.reference is base, which has no adapter that could move; write \
             reference: init"
                .into()
        });
        self.check_evaluation(&mut problems);
        problems.finish()
    }

    /// Refuses settings that have no effect beside others. A run that was begun with them is still read and continued.
    ///
    /// # Errors
    /// [`Error::Config`] naming every one, and its remedy.
    pub fn check_idle(&self) -> Result<()> {
        let mut problems = Problems::default();
        idle::check(&self.train, &self.objective, &self.lora, &mut problems);
        problems.finish()
    }

    /// Whether the reference has an adapter of its own, a copy of the trained one's start.
    pub fn reference_is_a_copy(&self) -> bool {
        match self.lora.init_from {
            Some(_) => self.lora.reference == Reference::Init,
            // With B = 0 a copy is the base itself, until it moves.
            None => self.train.sync_ref_model,
        }
    }

    /// Returns how completions are drawn; `None` if nothing is drawn.
    ///
    /// # Errors
    /// [`Error::Config`] if the objective or the section is invalid.
    pub fn drawing(&self) -> Result<Option<Drawing>> {
        self.rollout.resolve(&self.objective.resolve()?)
    }

    /// Checks the rewards, and that what rollouts do not have is not set.
    fn check_rollouts(&self, objective: &Objective, problems: &mut Problems) {
        let drawing = match self.rollout.resolve(objective) {
            Ok(Some(drawing)) => drawing,
            Ok(None) => return,
            Err(error) => return problems.absorb(Err(error)),
        };
        for (spec, _) in &drawing.rewards {
            if let Err(error) = spec.parse::<Spec>() {
                problems.add(format!("rollout.reward: {error}"));
            }
        }
        if objective.on_policy().is_none() {
            problems.require(!matches!(self.data.eval, Some(EvalSource::Fraction(_))), || {
                "data.eval is a share, and data.train holds the prompts of rollouts; name a file of pairs, or set it to null"
                    .into()
            });
            return;
        }
        problems.absorb(rollouts::paced(&self.train, Some(&drawing), objective).map(drop));
        problems.require(self.lora.lora_dropout == 0.0, || {
            format!(
                "lora.lora_dropout is {}, and objective.loss_type compares the policy with the one that drew, which has no \
                 dropout; set it to 0",
                self.lora.lora_dropout
            )
        });
        let unused = [
            (
                "data.eval",
                self.data.eval.is_some(),
                "what is held out has no completions to score; rewards of drawn completions are in the metrics of every step, and \
                 `dpo-lora eval frontier RUN/checkpoints/* --prompts FILE` measures reward and KL on held-out prompts",
            ),
            (
                "train.max_tokens_per_batch",
                self.train.max_tokens_per_batch.is_some(),
                "set per_device_train_batch_size",
            ),
            (
                "train.neftune_noise_alpha",
                self.train.neftune_noise_alpha.is_some(),
                "there is no noise on rollouts",
            ),
        ];
        for (key, is_set, why) in unused {
            problems.require(!is_set, || {
                format!(
                    "{key} is set, and objective.loss_type is one of drawn completions: {why}; set it to null"
                )
            });
        }
    }

    /// Checks that settings that act on evaluations come with evaluations.
    fn check_evaluation(&self, problems: &mut Problems) {
        let train = &self.train;
        let wanted = [
            ("eval_steps", train.eval_steps.is_some()),
            ("early_stopping_patience", train.early_stopping_patience.is_some()),
            ("load_best_model_at_end", train.load_best_model_at_end),
        ];
        for (key, wanted) in wanted {
            problems.require(!wanted || self.data.eval.is_some(), || {
                format!("train.{key} needs data.eval, which is null; name a file, or a fraction such as 0.05")
            });
            problems.require(!wanted || train.eval_steps.is_some(), || {
                format!("train.{key} needs train.eval_steps, which is null; set how often to evaluate")
            });
        }
    }
}

/// Reads a configuration file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Config`] with the line if it is not UTF-8.
fn text_of(path: &Path) -> Result<String> {
    files::read_text(path).map_err(|error| {
        let invalid = std::io::ErrorKind::InvalidData;
        let is_invalid = matches!(&error, Error::Io { source, .. } if source.kind() == invalid);
        if is_invalid { Error::Config(error.to_string()) } else { error }
    })
}

/// Returns every key with its default, as YAML; the two keys without a default are empty.
fn defaults() -> Result<serde_yaml::Value> {
    // The losses decide which parameters an objective has, and with which defaults.
    let config = RunConfig { objective: ObjectiveConfig::default(), ..RunConfig::new("", "") };
    let mut defaults = serde_yaml::to_value(config)
        .map_err(|error| Error::Config(format!("the defaults cannot be written as YAML: {error}")))?;
    if let Some(objective) = defaults.get_mut("objective").and_then(serde_yaml::Value::as_mapping_mut) {
        for key in ObjectiveConfig::keys() {
            objective.entry(key.into()).or_insert(serde_yaml::Value::Null);
        }
    }
    Ok(defaults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::CacheChoice;
    use crate::model::config::TargetModules;
    use crate::objective::Ipo;

    const MINIMAL: &str = "model:\n  base: m\ndata:\n  train: d.jsonl\n";

    fn read(text: &str, overrides: &[&str]) -> Result<RunConfig> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        RunConfig::from_yaml(text, "run.yaml", &overrides)
    }

    fn refused(text: &str, overrides: &[&str]) -> String {
        let error = read(text, overrides).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn two_keys_are_enough() {
        assert_eq!(read(MINIMAL, &[]).unwrap(), RunConfig::new("m", "d.jsonl"));
        // an empty section is a section of defaults
        assert_eq!(read(&format!("{MINIMAL}train:\nlora:\n"), &[]).unwrap(), RunConfig::new("m", "d.jsonl"));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_file_and_another_encoding_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.yaml");
        std::fs::write(&path, format!("\u{feff}{MINIMAL}")).unwrap();
        assert_eq!(RunConfig::from_file(&path, &[]).unwrap(), RunConfig::new("m", "d.jsonl"));
        let recipe = Recipe::from_file(&path, &[]).unwrap();
        assert_eq!(recipe, Recipe::Single(Box::new(RunConfig::new("m", "d.jsonl"))));
        std::fs::write(&path, [MINIMAL.as_bytes(), &b"# \xe9\n"[..]].concat()).unwrap();
        let refused = [RunConfig::from_file(&path, &[]).map(drop), Recipe::from_file(&path, &[]).map(drop)];
        for error in refused.map(Result::unwrap_err) {
            assert_eq!(error.exit_code(), 2);
            let message = error.to_string();
            assert!(message.contains("run.yaml: line 5 is not UTF-8 text"), "{message}");
        }
    }

    #[test]
    fn missing_keys_are_told_together() {
        for text in ["", "model:\n", "model: {base: ''}\ndata: {train: []}", "# nothing\n"] {
            let message = refused(text, &[]);
            assert!(message.contains("model.base is missing"), "{message}");
            assert!(message.contains("data.train is missing"), "{message}");
        }
        read("", &["model.base=m", "data.train=[a.jsonl, b.jsonl]"]).unwrap();
    }

    #[test]
    fn unknown_keys_name_file_line_and_neighbours() {
        let message =
            refused(&format!("{MINIMAL}train:\n  # a comment\n  learning_rte: 1\nbeta: 0.2\nsede: 1\n"), &[]);
        assert!(
            message.contains("run.yaml:7: train.learning_rte is not a key; did you mean learning_rate?"),
            "{message}"
        );
        assert!(message.contains("keys of train: adam_beta1, adam_beta2"), "{message}");
        assert!(message.contains("run.yaml:8: beta is not a key; did you mean objective.beta?"), "{message}");
        assert!(message.contains("run.yaml:9: sede is not a key; did you mean seed?"), "{message}");
        assert!(refused(&format!("{MINIMAL}3: 4"), &[]).contains("run.yaml:5: 3 is not a key"));
    }

    #[test]
    fn wrong_types_name_key_and_value() {
        let text = format!(
            "{MINIMAL}train:\n  learning_rate: fast\n  shuffle: yes\n  warmup_steps: 0.1\n  optim: lamb\n  \
             logging_steps: -1\n  adam_beta1: null\nseed: x\nlora: 16\n"
        );
        let message = refused(&text, &[]);
        for part in [
            "run.yaml:6: train.learning_rate is fast; expected a number",
            "run.yaml:7: train.shuffle is yes; expected true or false",
            "run.yaml:8: train.warmup_steps is 0.1; expected a whole number of steps",
            "run.yaml:9: train.optim is lamb; unknown variant `lamb`",
            "run.yaml:10: train.logging_steps is -1; expected a whole number of 0 or more",
            "run.yaml:11: train.adam_beta1 is null; remove the line for the default, 0.9",
            "run.yaml:12: seed is x; expected a whole number of 0 or more",
            "run.yaml:13: lora is 16; it is a section with keys of its own: adapter_layers, alpha_pattern",
        ] {
            assert!(message.contains(part), "{part} in\n{message}");
        }
        assert!(refused("[1, 2]", &[]).contains("run.yaml"));
        assert!(refused("model: {base: [}", &[]).contains("run.yaml"));
    }

    #[test]
    fn overrides_are_yaml_and_win() {
        let overrides = [
            "train.learning_rate=1e-4",
            "lora.target_modules=[q_proj, v_proj]",
            "lora.rank_pattern.model.layers.1.mlp=4",
            "output_dir=runs/x=y",
            "train.max_steps=null",
            "train.reference_cache=off",
        ];
        let config = read(&format!("{MINIMAL}train: {{max_steps: 3}}"), &overrides).unwrap();
        assert_eq!(config.train.learning_rate, 1e-4);
        assert!(matches!(config.lora.target_modules, TargetModules::Names(_)));
        assert_eq!(config.lora.rank_pattern["model.layers.1.mlp"], 4);
        assert_eq!(config.output_dir, PathBuf::from("runs/x=y"));
        assert_eq!(config.train.max_steps, None);
        assert_eq!(config.train.reference_cache, CacheChoice::Off);
    }

    #[test]
    fn overrides_reach_into_sections_that_are_null_by_default() {
        let set = ["lora.prefix_tuning.num_virtual_tokens=5", "lora.prefix_tuning.init_weights=zero"];
        let prefix = |text: &str, set: &[&str]| read(text, set).unwrap().lora.prefix_tuning.unwrap();
        assert_eq!(prefix(MINIMAL, &set).num_virtual_tokens, 5);
        let file =
            format!("{MINIMAL}lora: {{prefix_tuning: {{num_virtual_tokens: 4, prefix_projection: true}}}}");
        let found = prefix(&file, &set[..1]);
        assert_eq!(
            (found.num_virtual_tokens, found.prefix_projection),
            (5, true),
            "the file's other keys stay"
        );
        let eva = ["lora.init_lora_weights=eva", "lora.eva_config.rho=3"];
        assert_eq!(read(MINIMAL, &eva).unwrap().lora.eva_config.unwrap().rho, 3.0);
        let layers = read(MINIMAL, &["lora.adapter_layers.bottleneck_size=8"]).unwrap().lora.adapter_layers;
        assert_eq!(layers.unwrap().bottleneck_size, 8);
        let listed = refused(
            &format!("{MINIMAL}lora: {{prefix_tuning: [1]}}"),
            &["lora.prefix_tuning.num_virtual_tokens=5"],
        );
        assert!(listed.contains("lora.prefix_tuning is [1], which has no keys; set all of it"), "{listed}");
        let dotted = refused(&format!("{MINIMAL}lora.prefix_tuning.num_virtual_tokens: 5\n"), &[]);
        assert!(
            dotted.contains("run.yaml:5: lora.prefix_tuning.num_virtual_tokens is not read as one key; write num_virtual_tokens \
                             under prefix_tuning: under lora:"),
            "{dotted}"
        );
    }

    #[test]
    fn wrong_overrides_are_refused() {
        for (given, part) in [
            ("train.learning_rte=1", "did you mean train.learning_rate?"),
            ("beta=1", "did you mean objective.beta?"),
            ("train.learning_rate", "section.key=value"),
            ("train={}", "is a section"),
            ("train.learning_rate.x=1", "is not a key"),
            ("model.base=*x", "in quotes"),
            ("seed=18446744073709551616", "the value is 18446744073709551616, which is too large"),
            ("train.max_steps=!foo 3", "train.max_steps is !foo 3; the tag !foo is not read; remove it"),
            ("lora.eva_config.rh=2", "did you mean lora.eva_config.rho?"),
            ("lora.eva_config.x=2", "lora.eva_config.x is not a key"),
            ("train.learning_rate=fast", "train.learning_rate is fast; expected a number"),
        ] {
            let message = refused(MINIMAL, &[given]);
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn floats_read_in_every_notation() {
        for text in ["5e-5", "5.0e-5", "5E-5", "0.00005", ".5e-4"] {
            let config = read(&format!("{MINIMAL}train: {{learning_rate: {text}}}"), &[]).unwrap();
            assert_eq!(config.train.learning_rate, 5e-5, "{text}");
        }
        assert_eq!(read(&format!("{MINIMAL}lora: {{lora_alpha: 8}}"), &[]).unwrap().lora.lora_alpha, 8.0);
        assert!(
            refused(&format!("{MINIMAL}train: {{learning_rate: .nan}}"), &[])
                .contains("learning_rate is NaN")
        );
    }

    #[test]
    fn what_acts_on_evaluations_needs_them() {
        let message = refused(MINIMAL, &["train.early_stopping_patience=2"]);
        assert!(message.contains("train.early_stopping_patience needs data.eval"), "{message}");
        assert!(message.contains("train.early_stopping_patience needs train.eval_steps"), "{message}");
        read(MINIMAL, &["train.early_stopping_patience=2", "train.eval_steps=5", "data.eval=0.1"]).unwrap();
    }

    #[test]
    fn parameters_of_a_loss_belong_to_it() {
        let config = read(&format!("{MINIMAL}objective: {{loss_type: ipo, beta: 0.5}}"), &[]).unwrap();
        assert_eq!(config.objective.resolve().unwrap(), Objective::new(Ipo { beta: 0.5, ..Ipo::default() }));
        let yaml = config.to_yaml().unwrap();
        assert!(yaml.contains("loss_type: ipo") && !yaml.contains("label_smoothing"), "{yaml}");
        let message = refused(MINIMAL, &["objective.loss_type=ipo", "objective.label_smoothing=0.1"]);
        assert!(
            message.contains("objective.label_smoothing is set, and loss_type ipo has no such"),
            "{message}"
        );
        let message = refused(MINIMAL, &["objective.beta=fast", "objective.loss_type=hinged"]);
        assert!(message.contains("objective.beta is fast; expected a number"), "{message}");
        assert!(message.contains("objective.loss_type is hinged; no loss has this name"), "{message}");
    }

    #[test]
    fn resolved_yaml_reads_back() {
        let overrides = [
            "output_dir='1e5'",
            "model.adapter=[a, 'null']",
            "lora.rank_pattern={z: 1, a: 2}",
            "lora.exclude_modules='.*lm_head'",
            "lora.layers_to_transform=[0, 1]",
            "lora.target_modules=['off', q_proj]",
            "data.eval=0.125",
            "data.chat_template=\"{{ x }}\\n: #\"",
            "train.learning_rate=1e-30",
            "train.reference_cache=/tmp/cache",
            "train.save_total_limit=null",
        ];
        let config = read(MINIMAL, &overrides).unwrap();
        assert_eq!(read(&config.to_yaml().unwrap(), &[]).unwrap(), config);
    }
}
