//! `adapter_config.json`.

use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::{layout, names};
use super::CONFIG;
use super::{keys, mistyped};
use crate::error::{Error, Problems, Result};
use crate::model::config::{Layers, LoraConfig, ModuleNames, TargetModules, TokenIndices};
use crate::trainable::{TASK, take_heads};

/// `peft_type` of low-rank matrices.
pub(super) const LORA: &str = "LORA";
/// `peft_type` of prefix tuning.
pub(super) const PREFIX: &str = "PREFIX_TUNING";
/// `peft_type` of adapter layers. PEFT has none, and refuses the word.
pub(super) const LAYERS: &str = "ADAPTER_LAYERS";

/// The settings of an adapter that its matrices do not show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeftConfig {
    /// `LORA`, `PREFIX_TUNING` or `ADAPTER_LAYERS`.
    pub peft_type: String,
    /// The base it was trained on, as named by the program that wrote it.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// Default rank.
    #[serde(default = "eight")]
    pub r: usize,
    /// Default alpha.
    #[serde(default = "eight_f64")]
    pub lora_alpha: f64,
    /// Dropout it was trained with.
    #[serde(default)]
    pub lora_dropout: f64,
    /// alpha/√r instead of alpha/r.
    #[serde(default)]
    pub use_rslora: bool,
    /// DoRA: a magnitude for each output beside the low-rank matrices.
    #[serde(default)]
    pub use_dora: bool,
    /// Ranks of modules that differ from `r`.
    #[serde(default)]
    pub rank_pattern: Option<IndexMap<String, usize>>,
    /// Alphas of modules that differ from `lora_alpha`.
    #[serde(default)]
    pub alpha_pattern: Option<IndexMap<String, f64>>,
    /// The adapted modules. PEFT always writes this.
    #[serde(default)]
    pub target_modules: Option<TargetModules>,
    /// Modules to exclude from those.
    #[serde(default)]
    pub exclude_modules: Option<ModuleNames>,
    /// Only these layers, with a list of `target_modules`.
    #[serde(default)]
    pub layers_to_transform: Option<Layers>,
    /// Name of the list of layers that `layers_to_transform` refers to.
    #[serde(default)]
    pub layers_pattern: Option<ModuleNames>,
    /// Modules whose whole tensors the file holds.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Tokens whose rows of the embedding the file holds.
    #[serde(default)]
    pub trainable_token_indices: Option<TokenIndices>,
    /// Whether modules that the base ties are trained as one.
    #[serde(default)]
    pub ensure_weight_tying: Option<bool>,
    /// Prefix tuning: how many tokens.
    #[serde(default)]
    pub num_virtual_tokens: Option<usize>,
    /// Prefix tuning: layers of the base.
    #[serde(default)]
    pub num_layers: Option<usize>,
    /// Prefix tuning: features of a token's key.
    #[serde(default)]
    pub token_dim: Option<usize>,
    /// Prefix tuning: key heads.
    #[serde(default)]
    pub num_attention_heads: Option<usize>,
    /// Prefix tuning: 1 for a decoder.
    #[serde(default)]
    pub num_transformer_submodules: Option<usize>,
    /// Adapter layers: features of the bottleneck.
    #[serde(default)]
    pub bottleneck_size: Option<usize>,
    /// Adapter layers: the nonlinearity, by its name in `config.json`.
    #[serde(default)]
    pub non_linearity: Option<String>,
    /// The task it was trained for.
    #[serde(default)]
    pub task_type: Option<String>,
    /// Whether PEFT initialises modules that the file leaves out with matrices whose product is not 0.
    #[serde(skip)]
    pub(super) random_init: bool,
    /// Whether it is a reward model, with a scalar head beside the low-rank matrices.
    #[serde(skip)]
    pub is_reward: bool,
    /// Settings that are ignored, for the user to know.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// What can be made of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    /// Low-rank matrices alone, which every format holds.
    Lora,
    /// More than that: it can be merged into its base.
    Mergeable,
    /// It stands beside the weights of its base.
    Beside,
}

/// What is accepted of a configuration that is refused otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted {
    /// Unknown keys and other tasks, which become notes.
    pub forced: bool,
    /// A reward model: the task `SEQ_CLS` with a trained `score`.
    pub score: bool,
}

// PEFT's own defaults, for files that leave these keys out.
fn eight() -> usize {
    8
}

fn eight_f64() -> f64 {
    8.0
}

/// Why a sequence classifier is refused where log-probs are needed, also with `--force`.
const NO_CLASSIFIER: &str = "task_type is \"SEQ_CLS\": it is a reward model or another classifier, which predicts no tokens; score and \
                             eval take reward models";

/// Limit of keys of both patterns together: twice the number of linear modules of the largest models.
const MOST_PATTERNS: usize = 10_000;
/// Limit of the bytes of a key.
const LONGEST_PATTERN: usize = 1_000;
/// Limit of the bytes of the file; PEFT writes a few thousand.
const LARGEST: u64 = 16 << 20;

impl PeftConfig {
    /// Reads the configuration of an adapter directory.
    ///
    /// # Errors
    /// If it is missing, is of no known kind, or needs a feature that is not supported; all problems are named at once.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_for(directory, Accepted::default())
    }

    /// As [`PeftConfig::open`], with what else is accepted.
    ///
    /// # Errors
    /// As [`PeftConfig::open`].
    pub fn open_for(directory: &Path, accepted: Accepted) -> Result<Self> {
        let path = directory.join(CONFIG);
        if !path.exists() {
            return Err(Error::Adapter(format!(
                "{} holds no {CONFIG}; an adapter is a directory with {CONFIG} and its weights, as PEFT writes it",
                directory.display()
            )));
        }
        let size = std::fs::metadata(&path).map_err(Error::read(&path))?.len();
        if size > LARGEST {
            return Err(Error::Adapter(format!(
                "{} has {size} bytes; {LARGEST} at most are read",
                path.display()
            )));
        }
        let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
        Self::parse(&text, accepted).map_err(|e| Error::Adapter(format!("{}: {e}", path.display())))
    }

    fn parse(text: &str, accepted: Accepted) -> Result<Self> {
        let mut values: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::Adapter(mistyped::syntax(text, &e)))?;
        let is_classifier = values.get("task_type").is_some_and(|task| task == TASK);
        let is_reward = accepted.score && is_classifier;
        if is_classifier && take_heads(&mut values) && !accepted.score {
            return Err(Error::Adapter(NO_CLASSIFIER.into()));
        }
        let random_init = keys::init_is_random(&values);
        let (mut notes, mut problems) = (Vec::new(), Problems::default());
        let kind = values.get("peft_type").and_then(Value::as_str).unwrap_or(LORA).to_uppercase();
        let known = match kind.as_str() {
            LORA => keys::KEYS,
            PREFIX => keys::PREFIX_KEYS,
            LAYERS => keys::LAYER_KEYS,
            _ => {
                return Err(Error::Adapter(format!(
                    "peft_type is {}; only {LORA}, {PREFIX} and {LAYERS} are read",
                    names::shown(&kind)
                )));
            }
        };
        keys::check(known, &values, accepted.forced, &mut notes, &mut problems);
        problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
        let mut config: Self = mistyped::read(values)?;
        config.peft_type = kind;
        if !is_reward {
            config.check_task(accepted.forced, &mut notes)?;
        }
        (config.random_init, config.notes, config.is_reward) = (random_init, notes, is_reward);
        config.check_patterns()?;
        if config.r == 0 {
            return Err(Error::Adapter("r is 0; it is the rank of the matrices, 1 or more".into()));
        }
        if !config.lora_alpha.is_finite() {
            return Err(Error::Adapter(format!(
                "lora_alpha is {}; it must be a finite number",
                config.lora_alpha
            )));
        }
        Ok(config)
    }

    /// What can be made of the adapter.
    pub fn nature(&self) -> Nature {
        let replaces = self.modules_to_save.as_ref().is_some_and(|names| !names.is_empty())
            || self.trainable_token_indices.is_some();
        match self.peft_type == LORA {
            false => Nature::Beside,
            true if self.use_dora || replaces => Nature::Mergeable,
            true => Nature::Lora,
        }
    }

    /// A classifier's adapter fits the modules of a causal model too, but its answers would mean nothing.
    fn check_task(&self, forced: bool, notes: &mut Vec<String>) -> Result<()> {
        let Some(task) = self.task_type.as_deref().filter(|task| *task != "CAUSAL_LM") else { return Ok(()) };
        let said =
            format!("task_type is {task:?}: it was trained for a task other than next-token prediction");
        if forced {
            notes.push(said);
            return Ok(());
        }
        Err(Error::Adapter(format!(
            "{said}; name an adapter of task CAUSAL_LM, or insist with --force where there is such a flag"
        )))
    }

    /// Each pattern is compiled and tried on each module, so their number and length are limited to those of real files.
    fn check_patterns(&self) -> Result<()> {
        let ranks = self.rank_pattern.iter().flat_map(IndexMap::keys);
        let keys: Vec<&String> = ranks.chain(self.alpha_pattern.iter().flat_map(IndexMap::keys)).collect();
        let long = keys.iter().find(|key| key.len() > LONGEST_PATTERN);
        match (keys.len(), long) {
            (count, _) if count > MOST_PATTERNS => Err(Error::Adapter(format!(
                "rank_pattern and alpha_pattern have {count} keys; {MOST_PATTERNS} at most are read"
            ))),
            (_, Some(key)) => Err(Error::Adapter(format!(
                "a key of rank_pattern or alpha_pattern has {} bytes; {LONGEST_PATTERN} at most are read",
                key.len()
            ))),
            _ => Ok(()),
        }
    }

    /// The rules as a run's configuration has them, to match modules by the names that a model without wrappers gives them.
    pub(super) fn rules(&self) -> LoraConfig {
        let by_layers_pattern = self.layers_pattern.as_ref().is_some_and(|pattern| !is_empty(pattern));
        LoraConfig {
            r: self.r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            target_modules: match &self.target_modules {
                Some(TargetModules::Names(names)) => TargetModules::Names(bare_names(names)),
                Some(TargetModules::AllLinear) | None => TargetModules::AllLinear,
            },
            exclude_modules: self.exclude_modules.as_ref().map(bare_names),
            // An empty list has no effect.
            layers_to_transform: self
                .layers_to_transform
                .clone()
                .filter(|layers| !by_layers_pattern && !layers.indices().is_empty()),
            rank_pattern: bare_keys(self.rank_pattern.as_ref()),
            alpha_pattern: bare_keys(self.alpha_pattern.as_ref()),
            ..LoraConfig::default()
        }
    }
}

pub(super) fn is_empty(names: &ModuleNames) -> bool {
    match names {
        ModuleNames::Regex(regex) => regex.is_empty(),
        ModuleNames::List(names) => names.is_empty(),
    }
}

fn bare_names(names: &ModuleNames) -> ModuleNames {
    match names {
        ModuleNames::Regex(regex) => ModuleNames::Regex(layout::unwrapped(regex)),
        ModuleNames::List(names) => {
            ModuleNames::List(names.iter().map(|name| layout::unwrapped(name)).collect())
        }
    }
}

/// If two keys become the same one, the first is used, as for two that match one module.
fn bare_keys<T: Copy>(patterns: Option<&IndexMap<String, T>>) -> IndexMap<String, T> {
    let mut keys = IndexMap::new();
    for (key, value) in patterns.into_iter().flatten() {
        keys.entry(layout::unwrapped(key)).or_insert(*value);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_cannot_be_honoured_is_refused_at_once() {
        let text = r#"{"peft_type":"LORA","use_bdlora":true,"bias":"all","layer_replication":[[0,1]],"r":4}"#;
        let error = PeftConfig::parse(text, Accepted::default()).unwrap_err().to_string();
        assert!(["use_bdlora", "bias", "layer_replication"].iter().all(|key| error.contains(key)), "{error}");
        for (text, word) in [
            (r#"{"peft_type":"IA3"}"#, "IA3"),
            (r#"{"r":4}"#, "peft_type"),
            (r#"{"peft_type":"LORA","init_lora_weights":"pissa_niter_4"}"#, "pissa"),
            (r#"{"peft_type":"LORA","r":0}"#, "r is 0"),
            ("[]", "map"),
        ] {
            let error = PeftConfig::parse(text, Accepted::default()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn absent_settings_are_pefts_defaults() {
        let config = PeftConfig::parse(
            r#"{"peft_type":"LORA","bias":"none","modules_to_save":null}"#,
            Accepted::default(),
        )
        .unwrap();
        assert_eq!((config.r, config.lora_alpha, config.use_rslora), (8, 8.0, false));
    }
}
