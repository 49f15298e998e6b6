//! The files beside an adapter's matrices, as PEFT and TRL write them: the tokenizer's, and what the model card says.

use std::path::Path;

use super::{Base, Place};
use crate::config::RunConfig;
use crate::data::ChatTokenizer;
use crate::error::{Error, Result};
use crate::train::card::{AdapterKind, Card};

/// Files of a tokenizer that are copied.
const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

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
    let mut files = match &base.place {
        Place::Directory(directory) => copied(directory)?,
        Place::Gguf(gguf) => {
            [("tokenizer.json", &gguf.tokenizer.tokenizer), ("tokenizer_config.json", &gguf.tokenizer.config)]
                .map(|(name, value)| (name.to_string(), format!("{value:#}\n").into_bytes()))
                .to_vec()
        }
    };
    if let (Some(_), Some(template)) = (&config.data.chat_template, tokenizer.template()) {
        files.retain(|(name, _)| name != TEMPLATE);
        files.push((TEMPLATE.into(), template.source().as_bytes().to_vec()));
    }
    Ok(files)
}

fn copied(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let paths = TOKENIZER.iter().map(|name| (*name, directory.join(name))).filter(|(_, path)| path.is_file());
    let read = |(name, path): (&str, std::path::PathBuf)| {
        Ok((name.to_string(), std::fs::read(&path).map_err(Error::read(&path))?))
    };
    paths.map(read).collect()
}

/// What the model card of a run says.
///
/// # Errors
/// If the objective is invalid.
pub(super) fn card(config: &RunConfig, base: &str, records: usize) -> Result<Card> {
    let (train, lora) = (&config.train, &config.lora);
    let (kind, of_kind) = match (&lora.prefix_tuning, &lora.adapter_layers) {
        (Some(prefix), _) => (
            AdapterKind::Prefix,
            vec![("lora.prefix_tuning.num_virtual_tokens", prefix.num_virtual_tokens.to_string())],
        ),
        (None, Some(layers)) => (
            AdapterKind::Layers,
            vec![("lora.adapter_layers.bottleneck_size", layers.bottleneck_size.to_string())],
        ),
        (None, None) => (
            AdapterKind::Lora,
            vec![("lora.r", lora.r.to_string()), ("lora.lora_alpha", lora.lora_alpha.to_string())],
        ),
    };
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
    })
}

/// A setting as YAML has it.
fn of_yaml(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_yaml::to_string(value).map_err(|e| Error::Config(e.to_string()))?;
    Ok(text.trim_end().to_string())
}
