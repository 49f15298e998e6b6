//! The files beside an adapter's matrices, as PEFT and TRL write them: the tokenizer's, and what the model card says.

use std::path::Path;

use super::{Base, Place, TrainedWith};
use crate::config::RunConfig;
use crate::data::{ChatTemplate, ChatTokenizer};
use crate::error::{Error, Result};
use crate::model::config::LoraConfig;
use crate::train::card::{AdapterKind, Card};
use crate::trainable::{Adapter, Adapters};

/// Where transformers looks for a template first.
const TEMPLATE: &str = "chat_template.jinja";

/// Returns the names and contents of the tokenizer's files. A template of the run's own is among them.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn tokenizer_files(
    base: &Base,
    tokenizer: &ChatTokenizer,
    config: &RunConfig,
) -> Result<Vec<(String, Vec<u8>)>> {
    let own = config.data.chat_template.as_ref().and(tokenizer.template());
    base.tokenizer_files(own.map(ChatTemplate::source))
}

impl Base {
    /// The names of the files of a tokenizer that may stand beside an adapter.
    pub(crate) const TOKENIZER_FILES: &'static [&'static str] = &[
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        TEMPLATE,
        "chat_template.json",
    ];

    /// Returns the names and contents of its tokenizer's files, with another chat template if one is given.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn tokenizer_files(&self, template: Option<&str>) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = match &self.place {
            Place::Directory(directory) => copied(directory)?,
            Place::Gguf(gguf) => {
                let tokenizer = &gguf.tokenizer;
                [("tokenizer.json", &tokenizer.tokenizer), ("tokenizer_config.json", &tokenizer.config)]
                    .map(|(name, value)| (name.to_string(), format!("{value:#}\n").into_bytes()))
                    .to_vec()
            }
        };
        if let Some(template) = template {
            files.retain(|(name, _)| name != TEMPLATE);
            files.push((TEMPLATE.into(), template.as_bytes().to_vec()));
        }
        Ok(files)
    }
}

fn copied(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let names = Base::TOKENIZER_FILES.iter();
    let paths = names.map(|name| (*name, directory.join(name))).filter(|(_, path)| path.is_file());
    let read = |(name, path): (&str, std::path::PathBuf)| {
        Ok((name.to_string(), std::fs::read(&path).map_err(Error::read(&path))?))
    };
    paths.map(read).collect()
}

/// The kind of what is trained, and its settings: those of the adapter itself, which may be one that the run continues.
fn kind_of(trained: &Adapters, lora: &LoraConfig) -> (AdapterKind, Vec<(&'static str, String)>) {
    let mut ranks: Option<(usize, f64)> = None;
    let (mut is_uniform, mut kind) = (true, AdapterKind::Lora);
    for adapter in trained.iter() {
        match adapter {
            Adapter::Prefix(_) | Adapter::Projected(_) => {
                let tokens = adapter.virtual_tokens().to_string();
                return (AdapterKind::Prefix, vec![("lora.prefix_tuning.num_virtual_tokens", tokens)]);
            }
            Adapter::Bottleneck(layer) => {
                let size = layer.size.to_string();
                return (AdapterKind::Layers, vec![("lora.adapter_layers.bottleneck_size", size)]);
            }
            other => {
                if matches!(other, Adapter::Dora(_) | Adapter::Whole(_) | Adapter::TokenRows(_)) {
                    kind = AdapterKind::Modified;
                }
                if let Some(own) = other.low_rank().map(|lora| (lora.rank, lora.alpha)) {
                    is_uniform &= ranks.is_none_or(|others| others == own);
                    ranks = Some(own);
                }
            }
        }
    }
    // Ranks that patterns or EVA move begin with those of the configuration.
    let (r, alpha) = ranks.filter(|_| is_uniform).unwrap_or((lora.r, lora.lora_alpha));
    (kind, vec![("lora.r", r.to_string()), ("lora.lora_alpha", alpha.to_string())])
}

/// What the model card of a run says. `base` is the name of the base, with what the adapter notes of its training.
///
/// # Errors
/// If the objective is invalid.
pub(super) fn card(
    config: &RunConfig,
    (base, trained_with): (&str, &TrainedWith),
    trained: &Adapters,
    records: usize,
) -> Result<Card> {
    let train = &config.train;
    let (kind, of_kind) = kind_of(trained, &config.lora);
    let objective = vec![("objective", config.objective.resolve()?.to_json()?)];
    let of_training = vec![
        ("train.learning_rate", format!("{:e}", train.learning_rate)),
        ("train.lr_scheduler_type", of_yaml(&train.lr_scheduler_type)?),
        ("train.per_device_train_batch_size", train.per_device_train_batch_size.to_string()),
        ("train.gradient_accumulation_steps", train.gradient_accumulation_steps.to_string()),
        ("seed", config.seed.to_string()),
    ];
    let settings = [objective, of_kind, of_training].concat();
    Ok(Card {
        kind,
        base: base.into(),
        loss: of_yaml(&config.objective)?
            .lines()
            .find_map(|line| line.strip_prefix("loss_type: "))
            .map_or("a preference loss".into(), |loss| format!("the loss `{}`", loss.trim())),
        settings: settings.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        data: config.data.train.0.iter().map(|source| source.path().to_string()).collect(),
        records,
        is_reward: config.objective.resolve()?.needs().rewards,
        beneath: beneath(trained_with),
    })
}

/// Returns the text of the model card of an adapter that holds those of these stages, from that of the last one.
///
/// # Errors
/// If the objective is invalid.
pub(super) fn card_of_stages(
    config: &RunConfig,
    (base, trained_with): (&str, &TrainedWith),
    (stages, last): (&[&str], &str),
) -> Result<String> {
    let card = Card {
        base: base.into(),
        is_reward: config.objective.resolve()?.needs().rewards,
        beneath: beneath(trained_with),
        ..Card::default()
    };
    Ok(card.of_stages(last, stages))
}

/// The paths of the frozen adapters below the trained one.
fn beneath(trained_with: &TrainedWith) -> Vec<String> {
    trained_with.frozen.iter().map(|beneath| beneath.path.clone()).collect()
}

/// A setting as YAML has it.
fn of_yaml(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_yaml::to_string(value).map_err(|e| Error::Config(e.to_string()))?;
    Ok(text.trim_end().to_string())
}
