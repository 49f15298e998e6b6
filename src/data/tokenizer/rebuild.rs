//! Builds a class's own tokenizer around a vocabulary, as the `__init__` of transformers' classes does.

use serde_json::{Map, Value as Json, json};

use super::class::Class;
use super::named::Tokens;
use crate::error::{Error, Result};

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The inputs of the tokenizer that a class builds.
pub(super) struct Parts {
    /// The tokens and their ids.
    pub vocab: Json,
    /// The merge pairs.
    pub merges: Json,
    /// The post-processor of `tokenizer.json`, or null.
    pub post_processor: Json,
}

impl Parts {
    /// Takes the parts of a `tokenizer.json`.
    ///
    /// # Errors
    /// Fails if the model is not BPE.
    pub fn of_file(file: &mut Map<String, Json>, class: Class) -> Result<Self> {
        let Some(Json::Object(mut model)) = file.remove("model") else {
            return Err(Error::Data("it has no model".into()));
        };
        let vocab = model.remove("vocab").filter(Json::is_object);
        let (Some(vocab), Some(merges)) = (vocab, model.remove("merges")) else {
            let kind = model.get("type").and_then(Json::as_str).unwrap_or("unnamed").to_owned();
            return Err(Error::Data(format!(
                "its model ({kind}) is not BPE, which the tokenizer's class {class:?} needs; set tokenizer_class in \
                 tokenizer_config.json to PreTrainedTokenizerFast"
            )));
        };
        Ok(Self { vocab, merges, post_processor: file.remove("post_processor").unwrap_or(Json::Null) })
    }
}

/// Builds the `tokenizer.json` of `class`; `config` is `tokenizer_config.json`.
pub(super) fn build(class: Class, parts: Parts, tokens: &Tokens, config: &Map<String, Json>) -> Json {
    let prefix = config.get("add_prefix_space").and_then(Json::as_bool);
    let [normalizer, pre_tokenizer, decoder] = surroundings(class, prefix, config);
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder,
        "post_processor": parts.post_processor, "model": model(class, parts.vocab, parts.merges, tokens),
    })
}

fn model(class: Class, vocab: Json, merges: Json, tokens: &Tokens) -> Json {
    let spaces = matches!(class, Class::Llama | Class::CodeLlama | Class::Gemma);
    let unknown = matches!(class, Class::CodeLlama | Class::Gemma);
    let unk = unknown.then(|| tokens.by_name().remove("unk_token")).flatten();
    // GPT-2's class and its derivatives pass the empty string, which the library treats as none.
    json!({"type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
           "end_of_word_suffix": null, "fuse_unk": spaces, "byte_fallback": spaces, "ignore_merges": false,
           "vocab": vocab, "merges": merges})
}

/// Returns the normalizer, pre-tokenizer and decoder.
fn surroundings(class: Class, prefix: Option<bool>, config: &Map<String, Json>) -> [Json; 3] {
    let space = prefix.unwrap_or(false);
    let bytes = |splits: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": splits});
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let sequence = |first: Json, last: Json| json!({"type": "Sequence", "pretokenizers": [first, last]});
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let composed = json!({"type": "NFC"});
    match class {
        Class::Backend | Class::Gpt2 => [Json::Null, bytes(true), decoder],
        Class::Qwen2 => [composed, sequence(split(QWEN2), bytes(false)), decoder],
        Class::Qwen35 => [composed, sequence(split(QWEN3_5), bytes(false)), decoder],
        Class::GptNeoX => [composed, bytes(true), decoder],
        Class::Cohere => {
            [composed, sequence(json!({"type": "Digits", "individual_digits": true}), bytes(true)), decoder]
        }
        Class::Llama | Class::CodeLlama => {
            let legacy = class == Class::Llama && config.get("legacy") == Some(&Json::Bool(true));
            let prefixed = prefix.unwrap_or(true);
            let scheme = match (prefixed, legacy) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            let metaspace =
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
            [Json::Null, metaspace, spaces_decoder(prefixed || class == Class::CodeLlama)]
        }
        Class::Gemma => [
            json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            spaces_decoder(false),
        ],
    }
}

fn spaces_decoder(strips: bool) -> Json {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strips {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}
