//! `adapter_config.json`.

use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::CONFIG;
use crate::error::{Error, Problems, Result};
use crate::model::config::LoraConfig;

/// The settings of an adapter that its matrices do not show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeftConfig {
    /// Always `LORA`.
    pub peft_type: String,
    /// The base it was trained on, as its maker named it.
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
    /// Ranks of modules that differ from `r`.
    #[serde(default)]
    pub rank_pattern: Option<IndexMap<String, usize>>,
    /// Alphas of modules that differ from `lora_alpha`.
    #[serde(default)]
    pub alpha_pattern: Option<IndexMap<String, f64>>,
}

// PEFT's own defaults, for files that leave them out.
fn eight() -> usize {
    8
}

fn eight_f64() -> f64 {
    8.0
}

/// Keys that must be absent, null, false, empty or this value, and what they would change.
const REFUSED: &[(&str, &str, &str)] = &[
    ("use_dora", "", "DoRA (a learned magnitude beside the low-rank matrices)"),
    ("modules_to_save", "", "whole modules trained beside the low-rank matrices"),
    ("bias", "none", "trained biases"),
    ("lora_bias", "", "biases of lora_B"),
    ("layer_replication", "", "a base with repeated layers"),
    ("use_qalora", "", "QA-LoRA's pooled input"),
    ("use_bdlora", "", "block-diagonal matrices"),
    ("target_parameters", "", "adapted parameters that are no linear module"),
    ("trainable_token_indices", "", "trained token embeddings"),
    ("alora_invocation_tokens", "", "activation from a token on (aLoRA)"),
    ("arrow_config", "", "routing between adapters"),
];

/// Initialisations that change the base weights as well.
const REFUSED_INIT: &[&str] = &["pissa", "olora", "corda", "loftq"];

/// Keys of both patterns together, at most: twice the linear modules of the largest models.
const MOST_PATTERNS: usize = 10_000;
/// Bytes of a key, at most.
const LONGEST_PATTERN: usize = 1_000;
/// Bytes of the file, at most; PEFT writes some thousand.
const LARGEST: u64 = 16 << 20;

impl PeftConfig {
    /// Reads the configuration of an adapter directory.
    ///
    /// # Errors
    /// If it is missing, no LoRA, or asks for what cannot be honoured; everything refused is named at once.
    pub fn open(directory: &Path) -> Result<Self> {
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
        Self::parse(&text).map_err(|e| Error::Adapter(format!("{}: {e}", path.display())))
    }

    fn parse(text: &str) -> Result<Self> {
        let bad = |e: serde_json::Error| Error::Adapter(e.to_string());
        let values: Map<String, Value> = serde_json::from_str(text).map_err(bad)?;
        let mut problems = Problems::default();
        for (key, allowed, what) in REFUSED {
            let value = values.get(*key).unwrap_or(&Value::Null);
            let empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(s) => s.is_empty() || s == allowed,
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty(),
                _ => false,
            };
            problems.require(empty, || format!("{key} is {value}: {what} cannot be honoured"));
        }
        let init = values.get("init_lora_weights").and_then(Value::as_str).unwrap_or("");
        problems.require(!REFUSED_INIT.iter().any(|refused| init.starts_with(refused)), || {
            format!("init_lora_weights is {init:?}, which changes the base weights too; convert the adapter with PEFT")
        });
        problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
        let config: Self = serde_json::from_value(Value::Object(values)).map_err(bad)?;
        if !config.peft_type.eq_ignore_ascii_case("lora") {
            return Err(Error::Adapter(format!("peft_type is {:?}; only LORA is read", config.peft_type)));
        }
        config.check_patterns()?;
        let sound = config.lora_alpha.is_finite() && config.r > 0;
        sound.then_some(config).ok_or_else(|| Error::Adapter("r is 0 or lora_alpha is not finite".into()))
    }

    /// Each pattern is compiled and tried on each module: no more, and no longer ones, than an honest file has.
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

    /// The same rules as a run's configuration has them, for matching modules.
    pub(super) fn rules(&self) -> LoraConfig {
        LoraConfig {
            r: self.r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            rank_pattern: self.rank_pattern.clone().unwrap_or_default(),
            alpha_pattern: self.alpha_pattern.clone().unwrap_or_default(),
            ..LoraConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_cannot_be_honoured_is_refused_at_once() {
        let text = r#"{"peft_type":"LORA","use_dora":true,"bias":"all","modules_to_save":["lm_head"],"r":4}"#;
        let error = PeftConfig::parse(text).unwrap_err().to_string();
        assert!(["use_dora", "bias", "modules_to_save"].iter().all(|key| error.contains(key)), "{error}");
        for (text, word) in [
            (r#"{"peft_type":"IA3"}"#, "IA3"),
            (r#"{"r":4}"#, "peft_type"),
            (r#"{"peft_type":"LORA","init_lora_weights":"pissa_niter_4"}"#, "pissa"),
            (r#"{"peft_type":"LORA","r":0}"#, "r is 0"),
            ("[]", "map"),
        ] {
            let error = PeftConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn absent_settings_are_pefts_defaults() {
        let config =
            PeftConfig::parse(r#"{"peft_type":"LORA","bias":"none","modules_to_save":null}"#).unwrap();
        assert_eq!((config.r, config.lora_alpha, config.use_rslora), (8, 8.0, false));
    }
}
