//! The `model` and `lora` sections of a run's configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::beside::{self, AdapterLayersConfig, Beside, PrefixConfig};
use super::expressions;
use super::initialisation::{EvaConfig, InitLoraWeights};
use crate::error::{Error, Problems, Result};

pub use super::beside::TokenIndices;
pub use super::selection::{Layers, ModuleNames, TargetModules};

/// Which frozen weights to load, and where they run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// The base: a directory, a `.gguf` file, or a Hub id `owner/name[@revision]`. Required.
    pub base: String,
    /// The Hub id by which the adapter names its base, `owner/name`, if the base is not named by its id already.
    pub base_name: Option<String>,
    /// Frozen adapters that are part of the base, and so of the reference as well; they are applied in this order.
    #[serde(with = "super::one_or_many")]
    pub adapter: Vec<PathBuf>,
    /// Data type of the frozen weights.
    pub dtype: WeightDtype,
    /// Whether to quantise the projections of the blocks on loading (QLoRA).
    pub load_in_4bit: Option<FourBit>,
    /// Where the model runs.
    pub device: DeviceChoice,
}

/// 4-bit quantisations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FourBit {
    /// bitsandbytes' NF4 with double quantisation (arXiv 2305.14314).
    Nf4,
}

impl fmt::Display for FourBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nf4 => f.write_str("nf4"),
        }
    }
}

impl FromStr for FourBit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "nf4" => Ok(Self::Nf4),
            _ => Err(Error::Config(format!("{text:?} is not a 4-bit quantisation; write nf4"))),
        }
    }
}

impl ModelConfig {
    /// # Errors
    /// [`Error::Config`] naming every invalid value and its remedy.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::default();
        problems.require(!self.base.trim().is_empty(), || {
            "model.base is missing; name a directory, a .gguf file or a Hub id such as Qwen/Qwen2.5-0.5B-Instruct".into()
        });
        problems.require(self.base_name.as_ref().is_none_or(|name| !name.trim().is_empty()), || {
            "model.base_name is empty; name a Hub id such as Qwen/Qwen2.5-0.5B-Instruct, or null for the name of the base".into()
        });
        problems.require(self.adapter.iter().all(|path| !path.as_os_str().is_empty()), || {
            "model.adapter holds an empty path; name an adapter's directory, or null for none".into()
        });
        problems.finish()
    }
}

/// The data type of the frozen weights in computation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WeightDtype {
    /// As stored.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    BF16,
    /// IEEE half precision.
    F16,
}

impl fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for WeightDtype {
    type Err = Error;

    /// Also accepts torch's names (`float32`, `bfloat16`, `float16`).
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::BF16),
            "f16" | "float16" => Ok(Self::F16),
            _ => Err(Error::Config(format!("{text:?} is not a dtype; write auto, f32, bf16 or f16"))),
        }
    }
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first usable NVIDIA GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this ordinal.
    Cuda(usize),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::Config(format!("{text:?} is not a device; write auto, cpu, cuda or cuda:N"));
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Self::Cuda(ordinal)),
                _ => Err(unknown()),
            },
        }
    }
}

macro_rules! as_string {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
as_string!(WeightDtype, DeviceChoice, FourBit);

/// The largest accepted rank. It is far above any useful rank, and sizes computed from it cannot overflow.
const LARGEST_RANK: usize = 1 << 16;

/// The trainable adapter. Keys, default behaviour and matching follow PEFT's `LoraConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of every A and B that `rank_pattern` does not match.
    pub r: usize,
    /// The adapter is scaled by `lora_alpha / r`, or by `lora_alpha / √r` with `use_rslora`.
    pub lora_alpha: f64,
    /// Fraction of the adapter's inputs that is dropped in training, in [0, 1).
    pub lora_dropout: f64,
    /// Which linear modules get an adapter.
    pub target_modules: TargetModules,
    /// Which of those modules do not get an adapter.
    pub exclude_modules: Option<ModuleNames>,
    /// Restricts the adapter to these layers, 0-based; only allowed with a list of `target_modules`.
    pub layers_to_transform: Option<Layers>,
    /// Rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732).
    pub use_rslora: bool,
    /// DoRA: a trained magnitude for each output beside A and B (Liu et al. 2024, arXiv 2402.09353).
    pub use_dora: bool,
    /// What A and B start with.
    pub init_lora_weights: InitLoraWeights,
    /// Settings of `init_lora_weights: eva`; null: PEFT's defaults.
    pub eva_config: Option<EvaConfig>,
    /// Ranks by module: a map from a pattern for the end of a module's path to r. The first match wins.
    pub rank_pattern: IndexMap<String, usize>,
    /// Like `rank_pattern`, for `lora_alpha`.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Modules that are trained whole, beside the low-rank matrices: the embedding, the head, or both.
    pub modules_to_save: Option<Vec<String>>,
    /// Tokens whose rows of the embedding are trained.
    pub trainable_token_indices: Option<TokenIndices>,
    /// Prefix tuning instead of LoRA; null: no.
    pub prefix_tuning: Option<PrefixConfig>,
    /// Adapter layers instead of LoRA; null: no.
    pub adapter_layers: Option<AdapterLayersConfig>,
    /// The adapter to start from, instead of B = 0.
    pub init_from: Option<PathBuf>,
    /// The reference to use with `init_from`.
    pub reference: Reference,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: InitLoraWeights::Kaiming,
            eva_config: None,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            modules_to_save: None,
            trainable_token_indices: None,
            prefix_tuning: None,
            adapter_layers: None,
            init_from: None,
            reference: Reference::Init,
        }
    }
}

impl LoraConfig {
    /// # Errors
    /// [`Error::Config`] naming every invalid value and its remedy.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::default();
        problems.require(self.r > 0, || "lora.r is 0; a rank is 1 or more, such as 16".into());
        let ranks = self.rank_pattern.iter().map(|(module, r)| (format!("rank_pattern.{module}"), *r));
        for (key, r) in std::iter::once(("r".to_string(), self.r)).chain(ranks) {
            problems.require(r <= LARGEST_RANK, || {
                format!(
                    "lora.{key} is {r}; a rank above {LARGEST_RANK} is surely a mistake; 8 to 256 is usual"
                )
            });
        }
        for (module, _) in self.rank_pattern.iter().filter(|(_, r)| **r == 0) {
            problems.add(format!(
                "lora.rank_pattern.{module} is 0; exclude the module with exclude_modules instead"
            ));
        }
        let alphas =
            self.alpha_pattern.iter().map(|(module, alpha)| (format!("alpha_pattern.{module}"), *alpha));
        for (key, alpha) in std::iter::once(("lora_alpha".to_string(), self.lora_alpha)).chain(alphas) {
            problems.require(alpha.is_finite() && alpha > 0.0, || {
                format!("lora.{key} is {alpha}; it must be a finite number above 0, such as 2 · r")
            });
        }
        problems.require((0.0..1.0).contains(&self.lora_dropout), || {
            format!("lora.lora_dropout is {}; it must be in [0, 1)", self.lora_dropout)
        });
        problems.absorb(self.init_lora_weights.check(
            self.eva_config,
            self.init_from.is_some(),
            self.use_dora,
        ));
        problems.absorb(beside::check(&Beside {
            modules_to_save: self.modules_to_save.as_deref(),
            trainable_token_indices: self.trainable_token_indices.as_ref(),
            prefix_tuning: self.prefix_tuning,
            adapter_layers: self.adapter_layers.as_ref(),
            has_init_from: self.init_from.is_some(),
            use_dora: self.use_dora,
            init_lora_weights: self.init_lora_weights,
            lora_dropout: self.lora_dropout,
            set: [
                ("exclude_modules", self.exclude_modules.is_some()),
                ("rank_pattern", !self.rank_pattern.is_empty()),
                ("alpha_pattern", !self.alpha_pattern.is_empty()),
                ("use_rslora", self.use_rslora),
            ]
            .into_iter()
            .filter_map(|(key, is_set)| is_set.then_some(key))
            .collect(),
        }));
        self.check_targets(&mut problems);
        problems.absorb(self.check_expressions());
        problems.finish()
    }

    /// Checks that every regular expression compiles.
    fn check_expressions(&self) -> Result<()> {
        let mut problems = Problems::default();
        if let TargetModules::Names(ModuleNames::Regex(regex)) = &self.target_modules {
            problems.absorb(expressions::whole("target_modules", regex).map(|_| ()));
        }
        if let Some(ModuleNames::Regex(regex)) = &self.exclude_modules {
            problems.absorb(expressions::whole("exclude_modules", regex).map(|_| ()));
        }
        for key in self.rank_pattern.keys() {
            problems.absorb(expressions::end("rank_pattern", key).map(|_| ()));
        }
        for key in self.alpha_pattern.keys() {
            problems.absorb(expressions::end("alpha_pattern", key).map(|_| ()));
        }
        problems.finish()
    }

    fn check_targets(&self, problems: &mut Problems) {
        let empty = match &self.target_modules {
            TargetModules::AllLinear => false,
            TargetModules::Names(ModuleNames::List(names)) => {
                names.is_empty() || names.iter().any(String::is_empty)
            }
            TargetModules::Names(ModuleNames::Regex(regex)) => regex.is_empty(),
        };
        problems.require(!empty, || {
            "lora.target_modules is empty; write all-linear, or names such as [q_proj, v_proj]".into()
        });
        let by_list = matches!(self.target_modules, TargetModules::Names(ModuleNames::List(_)));
        problems.require(self.layers_to_transform.is_none() || by_list, || {
            format!(
                "lora.layers_to_transform needs a list of target_modules, but target_modules is {}; PEFT refuses this \
                 too: list the names, or select the layers in the regular expression",
                self.target_modules
            )
        });
        problems.require(
            self.layers_to_transform.as_ref().is_none_or(|layers| !layers.indices().is_empty()),
            || "lora.layers_to_transform is empty; write null for all layers".into(),
        );
    }
}

/// The policy that rewards are measured against when `init_from` is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reference {
    /// A frozen copy of the initial adapter, as TRL does: rewards start at 0.
    #[default]
    Init,
    /// The bare base.
    Base,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lora(yaml: &str) -> LoraConfig {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn adapters_are_none_one_or_many_and_round_trip() {
        for (yaml, count) in [("{}", 0), ("adapter: null", 0), ("adapter: a/b", 1), ("adapter: [a, b]", 2)] {
            let config: ModelConfig = serde_yaml::from_str(yaml).unwrap();
            assert_eq!(config.adapter.len(), count, "{yaml}");
            let text = serde_yaml::to_string(&config).unwrap();
            assert_eq!(serde_yaml::from_str::<ModelConfig>(&text).unwrap(), config);
        }
        let error = serde_yaml::from_str::<ModelConfig>("adapter: 3").unwrap_err().to_string();
        assert!(error.contains("a path or a list of paths"), "{error}");
    }

    #[test]
    fn devices_and_dtypes_read_what_they_write() {
        for device in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(device.to_string().parse::<DeviceChoice>().unwrap(), device);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        assert!(
            "cuda:x".parse::<DeviceChoice>().unwrap_err().to_string().contains("\"cuda:x\" is not a device")
        );
        for dtype in [WeightDtype::Auto, WeightDtype::F32, WeightDtype::BF16, WeightDtype::F16] {
            assert_eq!(dtype.to_string().parse::<WeightDtype>().unwrap(), dtype);
        }
        assert_eq!("bfloat16".parse::<WeightDtype>().unwrap(), WeightDtype::BF16);
        assert!("int8".parse::<WeightDtype>().is_err());
    }

    #[test]
    fn lora_values_that_cannot_be_are_named_together() {
        let config = lora(
            "{r: 0, lora_alpha: -1, lora_dropout: 1.0, target_modules: [], rank_pattern: {q_proj: 0}, \
             alpha_pattern: {v_proj: .inf}, exclude_modules: '(', layers_to_transform: []}",
        );
        let message = config.validate().unwrap_err().to_string();
        for part in [
            "lora.r is 0",
            "lora.lora_alpha is -1",
            "lora.lora_dropout is 1",
            "lora.target_modules is empty",
            "lora.rank_pattern.q_proj is 0",
            "lora.alpha_pattern.v_proj is inf",
            "lora.exclude_modules is \"(\"",
            "lora.layers_to_transform is empty",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
        LoraConfig::default().validate().unwrap();
    }

    #[test]
    fn layers_need_a_list_of_targets_as_in_peft() {
        assert!(lora("layers_to_transform: 3").validate().is_err());
        assert!(lora("{layers_to_transform: 3, target_modules: '.*q_proj'}").validate().is_err());
        lora("{layers_to_transform: 3, target_modules: [q_proj]}").validate().unwrap();
    }

    #[test]
    fn targets_round_trip() {
        assert_eq!(lora("target_modules: All-Linear").target_modules, TargetModules::AllLinear);
        for yaml in ["all-linear", "'.*_proj'", "[q_proj, v_proj]"] {
            let config = lora(&format!("{{target_modules: {yaml}, rank_pattern: {{b: 2, a: 1}}}}"));
            let back = lora(&serde_yaml::to_string(&config).unwrap());
            assert_eq!(back, config);
            assert_eq!(back.rank_pattern.get_index(0), Some((&"b".to_string(), &2)));
        }
    }
}
