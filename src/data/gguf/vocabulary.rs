//! The vocabulary of a GGUF file, and what is derived from it regardless of the tokenizer model.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::weights::gguf::Metadata;

/// Token types (`llama_token_type`).
const UNKNOWN: f64 = 2.0;
pub(super) const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// The vocabulary and the properties of each token.
pub(super) struct Vocabulary<'a> {
    pub(super) metadata: Metadata<'a>,
    /// `general.architecture`.
    pub(super) architecture: &'a str,
    /// The tokens as spelled in the file, by id.
    pub(super) tokens: Vec<&'a str>,
    /// The token types by id; empty if the file has none.
    pub(super) kinds: Vec<f64>,
}

/// The parts that depend on the tokenizer model.
pub(super) struct Built {
    /// `normalizer`, `pre_tokenizer`, `decoder` and `model`.
    pub(super) parts: Map<String, Value>,
    /// The tokens as the model spells them, by id.
    pub(super) spelled: Vec<String>,
    /// Whether texts begin with BOS if the file does not specify it.
    pub(super) adds_bos: bool,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn kind(&self, id: usize) -> f64 {
        self.kinds.get(id).copied().unwrap_or(1.0)
    }

    /// Returns the text of a special token by the metadata name of its id.
    pub(super) fn special(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(id) = self.metadata.integer(&format!("tokenizer.ggml.{name}_token_id"))? else {
            return Ok(None);
        };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id).copied());
        token.map(Some).ok_or_else(|| {
            Error::Data(format!("{name}_token_id is {id}, but there are {} tokens", self.tokens.len()))
        })
    }

    /// Returns the tokens that are matched as a whole in the text: control tokens, which are special, and user-defined
    /// ones.
    pub(super) fn added(&self, named: &[&str], spelled: &[String]) -> Vec<Value> {
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let special = [UNKNOWN, CONTROL].contains(&self.kind(id)) || named.contains(token);
            // As in transformers, a token that the model spells differently is an ordinary piece.
            let whole = self.kind(id) == USER_DEFINED && spelled[id] == *token;
            if special || whole {
                added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                                  "rstrip": false, "normalized": false, "special": special}));
            }
        }
        added
    }

    pub(super) fn config(&self, adds_bos: bool) -> Result<Map<String, Value>> {
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

/// Returns the vocabulary of `tokenizer.json`: ids by spelling. If several tokens share a spelling, the first one keeps
/// it.
pub(super) fn ids(spelled: &[String]) -> Map<String, Value> {
    let mut ids = Map::new();
    for (id, token) in spelled.iter().enumerate() {
        ids.entry(token.as_str()).or_insert_with(|| id.into());
    }
    ids
}

/// Returns the merges listed in the file, as `left right` entries.
pub(super) fn listed_merges(metadata: Metadata) -> Result<Option<Vec<Value>>> {
    let Some(lines) = metadata.texts("tokenizer.ggml.merges")? else { return Ok(None) };
    let split = |line: &&str| {
        let halves = line
            .split_once(' ')
            .ok_or_else(|| Error::Data(format!("the merge {line:.80?} does not consist of two tokens")));
        halves.map(|(left, right)| json!([left, right]))
    };
    lines.iter().map(split).collect::<Result<Vec<_>>>().map(Some)
}
