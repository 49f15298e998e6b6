//! The tokenizer in a GGUF file's metadata, as the `tokenizer.json` and `tokenizer_config.json` that say the same.
//!
//! Vocabulary, merges or scores, kinds of tokens and special ids stand in the file; how text is split before stands
//! there by name only (`tokenizer.ggml.pre`). What the names mean is llama.cpp's `llama-vocab.cpp` and the
//! `tokenizer.json` of the models behind them; transformers' `integrations/gguf` builds the same.

mod byte_level;
mod sentencepiece;

use serde_json::{Map, Value, json};

use super::tokenizer::ChatTokenizer;
use crate::error::{Error, Result};
use crate::weights::gguf::{GgufFile, Metadata};

/// A tokenizer's two files.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`.
    pub config: Value,
}

/// Kinds of tokens (`llama_token_type`).
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// Control tokens that end a turn, in the models of the supported architectures.
const ENDS: &[&str] =
    &["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"];

/// The vocabulary and what is known of each token.
struct Vocabulary<'a> {
    metadata: Metadata<'a>,
    /// `general.architecture`.
    architecture: &'a str,
    /// As the file spells them, by id.
    tokens: Vec<&'a str>,
    /// Kinds by id; empty if the file does not say.
    kinds: Vec<f64>,
}

/// What a tokenizer model decides.
struct Built {
    /// `normalizer`, `pre_tokenizer`, `decoder` and `model`.
    parts: Map<String, Value>,
    /// Tokens as the model spells them, by id.
    spelled: Vec<String>,
    /// Whether texts begin with BOS when the file does not say.
    adds_bos: bool,
}

impl TokenizerFiles {
    /// Reads the metadata of a model.
    ///
    /// # Errors
    /// If there is no tokenizer in them, it is of an unknown kind, or its parts do not belong together.
    pub fn read(file: &GgufFile) -> Result<Self> {
        build(file.metadata())
            .map_err(|e| Error::Data(format!("{}: its tokenizer: {e}", file.path().display())))
    }

    /// Ids of the tokens that end a completion, sorted: those that the file names, and those that llama.cpp knows by their
    /// text (`llama-vocab.cpp`, `special_eog_ids`).
    ///
    /// # Errors
    /// If an id is no number.
    pub fn ends(file: &GgufFile) -> Result<Vec<u32>> {
        let metadata = file.metadata();
        let mut ends = Vec::new();
        for name in ["eos", "eot", "eom"] {
            let id = metadata.integer(&format!("tokenizer.ggml.{name}_token_id"))?;
            ends.extend(id.and_then(|id| u32::try_from(id).ok()));
        }
        let kinds = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
        for (id, token) in metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default().iter().enumerate() {
            if kinds.get(id) == Some(&CONTROL) && ENDS.contains(token) {
                ends.extend(u32::try_from(id));
            }
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }

    /// The tokenizer; `chat_template` is the setting of that name.
    ///
    /// # Errors
    /// If the vocabulary and the merges do not fit each other, or the template is not Jinja.
    pub fn load(&self, chat_template: Option<&str>) -> Result<ChatTokenizer> {
        let bytes = |value: &Value| {
            serde_json::to_vec(value)
                .map_err(|e| Error::Data(format!("the tokenizer cannot be written: {e}")))
        };
        ChatTokenizer::from_bytes(&bytes(&self.tokenizer)?, &bytes(&self.config)?, chat_template)
    }
}

fn build(metadata: Metadata) -> Result<TokenizerFiles> {
    let missing =
        |key: &str| Error::Data(format!("tokenizer.ggml.{key} is missing; convert the model again"));
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokens"))?;
    let vocabulary = Vocabulary {
        metadata,
        architecture: metadata.text("general.architecture")?.unwrap_or(""),
        kinds: metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default(),
        tokens,
    };
    let count = vocabulary.tokens.len();
    if !vocabulary.kinds.is_empty() && vocabulary.kinds.len() != count {
        return Err(Error::Data(format!("{} token types for {count} tokens", vocabulary.kinds.len())));
    }
    let built = match metadata.text("tokenizer.ggml.model")?.ok_or_else(|| missing("model"))? {
        "gpt2" => byte_level::build(&vocabulary)?,
        "llama" => sentencepiece::build(&vocabulary)?,
        other => {
            return Err(Error::Data(format!(
                "the model {other:?} is not supported; known: gpt2 (byte-level BPE), llama (SentencePiece BPE)"
            )));
        }
    };
    let config = vocabulary.config(built.adds_bos)?;
    let special = config.iter().filter(|(key, _)| key.ends_with("_token"));
    let special: Vec<&str> = special.filter_map(|(_, token)| token.as_str()).collect();
    let mut tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
                               "added_tokens": vocabulary.added(&special, &built.spelled),
                               "post_processor": post_processor(&config, &vocabulary)});
    if let Value::Object(tokenizer) = &mut tokenizer {
        tokenizer.extend(built.parts);
    }
    Ok(TokenizerFiles { tokenizer, config: config.into() })
}

impl<'a> Vocabulary<'a> {
    fn kind(&self, id: usize) -> f64 {
        self.kinds.get(id).copied().unwrap_or(1.0)
    }

    /// A special token's text by the name of its id.
    fn special(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(id) = self.metadata.integer(&format!("tokenizer.ggml.{name}_token_id"))? else {
            return Ok(None);
        };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id).copied());
        token.map(Some).ok_or_else(|| {
            Error::Data(format!("{name}_token_id is {id}, but there are {} tokens", self.tokens.len()))
        })
    }

    /// Tokens that are matched whole in the text: control tokens, which are special, and user-defined ones.
    fn added(&self, named: &[&str], spelled: &[String]) -> Vec<Value> {
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let special = [UNKNOWN, CONTROL].contains(&self.kind(id)) || named.contains(token);
            // A token that the model spells otherwise is one of its pieces, as transformers has it.
            let whole = self.kind(id) == USER_DEFINED && spelled[id] == *token;
            if special || whole {
                added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                                  "rstrip": false, "normalized": false, "special": special}));
            }
        }
        added
    }

    fn config(&self, adds_bos: bool) -> Result<Map<String, Value>> {
        let flag = |name: &str| self.metadata.flag(&format!("tokenizer.ggml.add_{name}_token"));
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        config.insert("add_bos_token".into(), flag("bos")?.unwrap_or(adds_bos).into());
        config.insert("add_eos_token".into(), flag("eos")?.unwrap_or(false).into());
        for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
            if let Some(token) = self.special(key)? {
                config.insert(format!("{name}_token"), token.into());
            }
        }
        if let Some(template) = self.metadata.text("tokenizer.chat_template")? {
            config.insert("chat_template".into(), template.into());
        }
        Ok(config)
    }
}

/// BOS before and EOS behind a text, where the file says so.
fn post_processor(config: &Map<String, Value>, vocabulary: &Vocabulary) -> Value {
    let added = |name: &str| {
        let token = config.get(&format!("{name}_token"))?.as_str()?;
        let wanted = config.get(&format!("add_{name}_token")) == Some(&Value::Bool(true));
        wanted.then_some(token)
    };
    let (bos, eos) = (added("bos"), added("eos"));
    let piece = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let around = |texts: &[Value]| -> Vec<Value> {
        let each = |one: &Value| {
            bos.map(piece).into_iter().chain([one.clone()]).chain(eos.map(piece)).collect::<Vec<_>>()
        };
        texts.iter().flat_map(each).collect()
    };
    let special: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|token| {
            let id = vocabulary.tokens.iter().position(|known| *known == token);
            (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}))
        })
        .collect();
    json!({"type": "TemplateProcessing", "single": around(&[text("A")]), "pair": around(&[text("A"), text("B")]),
           "special_tokens": special})
}

/// The vocabulary of `tokenizer.json`: ids by spelling; of tokens that are spelled alike the first keeps the spelling.
fn ids(spelled: &[String]) -> Map<String, Value> {
    let mut ids = Map::new();
    for (id, token) in spelled.iter().enumerate() {
        ids.entry(token.as_str()).or_insert_with(|| id.into());
    }
    ids
}

/// The merges as the file lists them, `left right` a line.
fn listed_merges(metadata: Metadata) -> Result<Option<Vec<Value>>> {
    let Some(lines) = metadata.texts("tokenizer.ggml.merges")? else { return Ok(None) };
    let split = |line: &&str| {
        let halves = line
            .split_once(' ')
            .ok_or_else(|| Error::Data(format!("the merge {line:.80?} is not of two tokens")));
        halves.map(|(left, right)| json!([left, right]))
    };
    lines.iter().map(split).collect::<Result<Vec<_>>>().map(Some)
}
