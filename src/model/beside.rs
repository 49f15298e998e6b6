//! The keys of `lora` for what is trained other than by low-rank matrices: whole tensors and rows of embedding and head,
//! prefix tuning, and adapter layers.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::initialisation::InitLoraWeights;
use crate::error::{Error, Problems, Result};
use crate::ops::gated_act::Activation;

/// PEFT's `trainable_token_indices`: tokens of the embedding, or of the named modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of token ids, or a map such as {embed_tokens: [5, 9]}")]
pub enum TokenIndices {
    /// Tokens of the embedding.
    List(Vec<u32>),
    /// Tokens by the end of a module's path.
    ByModule(IndexMap<String, Vec<u32>>),
}

impl TokenIndices {
    /// The tokens of a module; a list is that of the embedding.
    pub fn of(&self, module: &str, is_embedding: bool) -> Option<&[u32]> {
        match self {
            Self::List(tokens) => is_embedding.then_some(tokens),
            Self::ByModule(all) => all
                .iter()
                .find(|(name, _)| module.ends_with(name.as_str()))
                .map(|(_, tokens)| tokens.as_slice()),
        }
    }

    /// Whether no token is named.
    pub fn is_empty(&self) -> bool {
        self.all().iter().all(|tokens| tokens.is_empty())
    }

    fn all(&self) -> Vec<&[u32]> {
        match self {
            Self::List(tokens) => vec![tokens],
            Self::ByModule(all) => all.values().map(Vec::as_slice).collect(),
        }
    }
}

/// What a prefix starts with, by PEFT's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixInit {
    /// Numbers of the standard normal distribution: null in PEFT.
    #[default]
    Normal,
    /// Zeros.
    Zero,
}

/// Prefix tuning (Li and Liang 2021, arXiv 2101.00190), with PEFT's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixConfig {
    /// Virtual tokens before every sequence.
    pub num_virtual_tokens: usize,
    /// What their keys and values start with.
    pub init_weights: PrefixInit,
    /// Whether a network that all layers share makes them from embeddings of the virtual tokens, as in the paper.
    pub prefix_projection: bool,
    /// Features within that network; `None`: those of a token's key.
    pub encoder_hidden_size: Option<usize>,
}

impl PrefixConfig {
    /// Returns the features within the network in front of the prefix, if there is one; `Some(None)`: those of a key.
    pub fn projection(self) -> Option<Option<usize>> {
        self.prefix_projection.then_some(self.encoder_hidden_size)
    }
}

impl Default for PrefixConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            init_weights: PrefixInit::Normal,
            prefix_projection: false,
            encoder_hidden_size: None,
        }
    }
}

/// Adapter layers (Houlsby et al. 2019, arXiv 1902.00751).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterLayersConfig {
    /// Features of the bottleneck.
    pub bottleneck_size: usize,
    /// The nonlinearity in it, by its name in `config.json`.
    pub non_linearity: String,
}

impl Default for AdapterLayersConfig {
    fn default() -> Self {
        Self { bottleneck_size: 64, non_linearity: Activation::Gelu.name().into() }
    }
}

impl AdapterLayersConfig {
    /// The nonlinearity.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none of this name.
    pub fn activation(&self) -> Result<Activation> {
        Activation::by_name(&self.non_linearity).ok_or_else(|| {
            Error::Config(format!(
                "lora.adapter_layers.non_linearity is {:?}; write gelu, relu, silu, gelu_new or relu2",
                self.non_linearity
            ))
        })
    }
}

/// The largest accepted number of virtual tokens, and size of a bottleneck.
const LARGEST: usize = 1 << 16;

/// These keys, and what of the others they exclude.
pub(super) struct Beside<'a> {
    pub modules_to_save: Option<&'a [String]>,
    pub trainable_token_indices: Option<&'a TokenIndices>,
    pub prefix_tuning: Option<PrefixConfig>,
    pub adapter_layers: Option<&'a AdapterLayersConfig>,
    pub has_init_from: bool,
    pub use_dora: bool,
    pub init_lora_weights: InitLoraWeights,
    pub lora_dropout: f64,
    /// Keys of LoRA that are set, and that neither takes the place of.
    pub set: Vec<&'static str>,
}

/// Checks these keys by themselves and beside the others.
///
/// # Errors
/// [`Error::Config`] naming every invalid value and its remedy.
pub(super) fn check(lora: &Beside) -> Result<()> {
    let mut problems = Problems::default();
    let Beside { modules_to_save, trainable_token_indices, prefix_tuning, adapter_layers, .. } = lora;
    let set = [
        ("prefix_tuning", prefix_tuning.is_some()),
        ("adapter_layers", adapter_layers.is_some()),
        ("modules_to_save", modules_to_save.is_some()),
        ("trainable_token_indices", trainable_token_indices.is_some()),
    ];
    for (key, _) in set.iter().filter(|(_, set)| *set && lora.has_init_from) {
        problems.add(format!(
            "lora.{key} is set, but lora.init_from names an adapter to start from; keep one of them"
        ));
    }
    for (key, _) in set[..2].iter().filter(|(_, set)| *set) {
        let mut others = vec![
            ("use_dora", lora.use_dora),
            ("init_lora_weights", lora.init_lora_weights != InitLoraWeights::Kaiming),
        ];
        others.extend(set.iter().filter(|(other, _)| other != key).map(|(other, set)| (*other, *set)));
        others.extend(lora.set.iter().map(|key| (*key, true)));
        for (other, _) in others.iter().filter(|(_, set)| *set) {
            problems.add(format!("lora.{key} is set, and it takes the place of LoRA: remove lora.{other}"));
        }
    }
    let eva = lora.init_lora_weights == InitLoraWeights::Eva;
    for (key, _) in set[2..].iter().filter(|(_, set)| *set && eva) {
        problems.add(format!(
            "lora.{key} is not supported with lora.init_lora_weights: eva; write true or pissa"
        ));
    }
    if let Some(PrefixConfig { num_virtual_tokens: tokens, encoder_hidden_size, .. }) = prefix_tuning {
        if let Some(size) = encoder_hidden_size {
            problems.require((1..=LARGEST).contains(size), || {
                format!("lora.prefix_tuning.encoder_hidden_size is {size}; it must be from 1 to {LARGEST}, such as 512")
            });
            problems.require(prefix_tuning.is_some_and(|prefix| prefix.prefix_projection), || {
                "lora.prefix_tuning.encoder_hidden_size is set, and prefix_projection is false, which has no network; write \
                 prefix_projection: true, or remove it"
                    .into()
            });
        }
        problems.require((1..=LARGEST).contains(tokens), || {
            format!("lora.prefix_tuning.num_virtual_tokens is {tokens}; it must be from 1 to {LARGEST}, such as 20")
        });
        problems.require(lora.lora_dropout == 0.0, || {
            format!("lora.lora_dropout is {}, and a prefix has no dropout; write 0", lora.lora_dropout)
        });
    }
    if let Some(layers) = adapter_layers {
        problems.require((1..=LARGEST).contains(&layers.bottleneck_size), || {
            format!(
                "lora.adapter_layers.bottleneck_size is {}; it must be from 1 to {LARGEST}, such as 64",
                layers.bottleneck_size
            )
        });
        problems.absorb(layers.activation().map(|_| ()));
    }
    problems.require(modules_to_save.is_none_or(|names| !names.is_empty()), || {
        "lora.modules_to_save is empty; name embed_tokens or lm_head, or write null".into()
    });
    for tokens in trainable_token_indices.iter().flat_map(|tokens| tokens.all()) {
        let mut sorted = tokens.to_vec();
        sorted.sort_unstable();
        problems.require(!sorted.is_empty(), || {
            "lora.trainable_token_indices is empty; name token ids, or write null".into()
        });
        if let Some(two) = sorted.windows(2).find(|two| two[0] == two[1]) {
            problems.add(format!("lora.trainable_token_indices names token {} twice", two[0]));
        }
    }
    problems.finish()
}

#[cfg(test)]
mod tests {
    use super::super::config::LoraConfig;

    #[test]
    fn what_excludes_another_is_named() {
        for (yaml, parts) in [
            ("{prefix_tuning: {num_virtual_tokens: 0}}", &["num_virtual_tokens is 0"][..]),
            (
                "{prefix_tuning: {encoder_hidden_size: 0}}",
                &["encoder_hidden_size is 0", "prefix_projection: true"],
            ),
            ("{prefix_tuning: {}, lora_dropout: 0.1}", &["no dropout"]),
            (
                "{prefix_tuning: {}, adapter_layers: {}}",
                &["remove lora.adapter_layers", "remove lora.prefix_tuning"],
            ),
            ("{adapter_layers: {non_linearity: mish}, use_dora: true}", &["mish", "remove lora.use_dora"]),
            ("{adapter_layers: {bottleneck_size: 0}}", &["bottleneck_size is 0"]),
            ("{modules_to_save: [lm_head], init_from: a}", &["lora.init_from"]),
            ("{modules_to_save: []}", &["modules_to_save is empty"]),
            ("{trainable_token_indices: [3, 3]}", &["token 3 twice"]),
            ("{trainable_token_indices: [3], init_lora_weights: eva}", &["eva"]),
        ] {
            let message =
                serde_yaml::from_str::<LoraConfig>(yaml).unwrap().validate().unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{yaml}: {message}");
        }
        for yaml in [
            "{prefix_tuning: {num_virtual_tokens: 4, init_weights: zero}}",
            "{prefix_tuning: {prefix_projection: true, encoder_hidden_size: 8}}",
            "{adapter_layers: {}, lora_dropout: 0.1}",
            "{modules_to_save: [embed_tokens, lm_head]}",
            "{trainable_token_indices: {embed_tokens: [4]}, use_dora: true}",
        ] {
            let config: LoraConfig = serde_yaml::from_str(yaml).unwrap();
            config.validate().unwrap();
            assert_eq!(
                serde_yaml::from_str::<LoraConfig>(&serde_yaml::to_string(&config).unwrap()).unwrap(),
                config
            );
        }
    }
}
