//! The vocabulary of a GGUF file, and what is derived from it regardless of the tokenizer model.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kinds::{CONTROL, NORMAL, UNKNOWN, USER_DEFINED};
use super::special::{except, named, recognise};
use crate::error::{Error, Result};
use crate::weights::gguf::Metadata;

/// Special tokens after which Phi-3's tokenizer keeps white space.
const KEEP_SPACE: &[&str] = &["<unk>", "<s>", "<|endoftext|>"];

/// The beginning of the keys of named chat templates.
const NAMED_TEMPLATE: &str = "tokenizer.chat_template.";

/// A tokenizer model, `tokenizer.ggml.model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Model {
    /// gpt2: byte-level BPE.
    ByteLevel,
    /// llama: SentencePiece BPE with byte fallback.
    SentencePiece,
}

/// The vocabulary and the properties of each token.
pub(super) struct Vocabulary<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) model: Model,
    /// `general.architecture`.
    pub(super) architecture: &'a str,
    /// The tokens as spelled in the file, by id.
    pub(super) tokens: Vec<&'a str>,
    /// The token types by id, corrected as llama.cpp corrects them.
    kinds: Vec<f64>,
    /// Ids of the tokens that end a completion.
    pub(super) ends: BTreeSet<usize>,
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
    /// Reads the vocabulary.
    ///
    /// # Errors
    /// Fails if there is none, its model is not supported, or its parts are inconsistent.
    pub(super) fn read(metadata: Metadata<'a>) -> Result<Self> {
        let missing =
            |key: &str| Error::Data(format!("tokenizer.ggml.{key} is missing; convert the model again"));
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokens"))?;
        let model = match metadata.text("tokenizer.ggml.model")?.ok_or_else(|| missing("model"))? {
            "gpt2" => Model::ByteLevel,
            "llama" => Model::SentencePiece,
            other => {
                return Err(Error::Data(format!(
                    "the model {other:?} is not supported; known: gpt2 (byte-level BPE), llama (SentencePiece BPE)"
                )));
            }
        };
        let count = tokens.len();
        let kinds = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![NORMAL; count]);
        if kinds.len() != count {
            return Err(Error::Data(format!("{} token types for {count} tokens", kinds.len())));
        }
        let architecture = metadata.text("general.architecture")?.unwrap_or("");
        let mut read = Self { metadata, model, architecture, tokens, kinds, ends: BTreeSet::new() };
        let mut ends = recognise(metadata, &read.tokens, &mut read.kinds)?;
        // The default of EOS depends on the corrected types.
        ends.extend(read.special_id("eos")?);
        except(&read.tokens, &mut read.kinds, &mut ends);
        read.ends = ends;
        Ok(read)
    }

    pub(super) fn kind(&self, id: usize) -> f64 {
        self.kinds.get(id).copied().unwrap_or(NORMAL)
    }

    /// Returns the id of a special token by its metadata name.
    fn special_id(&self, name: &str) -> Result<Option<usize>> {
        let Some(id) = named(self.metadata, name)? else { return Ok(self.usual_id(name)) };
        let known = usize::try_from(id).ok().filter(|id| *id < self.tokens.len());
        known.map(Some).ok_or_else(|| {
            let count = self.tokens.len();
            Error::Data(format!("tokenizer.ggml.{name}_token_id is {id}, but there are {count} tokens"))
        })
    }

    /// Returns the id that llama.cpp gives a special token of a SentencePiece vocabulary whose file names none, if that
    /// token is special. Its default for byte-level BPE, 11, is right for Falcon alone: elsewhere it is a letter.
    fn usual_id(&self, name: &str) -> Option<usize> {
        let (id, kind) = match name {
            "bos" => (1, CONTROL),
            "eos" => (2, CONTROL),
            "unknown" => (0, UNKNOWN),
            _ => return None,
        };
        Some(id).filter(|id| self.model == Model::SentencePiece && self.kinds.get(*id) == Some(&kind))
    }

    /// Returns the text of a special token by the metadata name of its id.
    pub(super) fn special(&self, name: &str) -> Result<Option<&'a str>> {
        Ok(self.special_id(name)?.map(|id| self.tokens[id]))
    }

    /// Returns the tokens that are matched as a whole in the text: control tokens, which are special, and user-defined
    /// ones.
    pub(super) fn added(&self, named: &[&str], spelled: &[String]) -> Result<Vec<Value>> {
        let strips = self.strips()?;
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let kind = self.kind(id);
            let special = [UNKNOWN, CONTROL].contains(&kind) || named.contains(token);
            // As in transformers, a token that the model spells differently is an ordinary piece.
            let whole = kind == USER_DEFINED && spelled[id] == *token;
            if special || whole {
                let marked = [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind);
                let rstrip = strips && marked && !KEEP_SPACE.contains(token);
                added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                                  "rstrip": rstrip, "normalized": false, "special": special}));
            }
        }
        Ok(added)
    }

    /// Whether white space after special tokens is dropped, as by Phi-3's tokenizer. No key says it. llama.cpp goes by
    /// the model's name, which a fine-tuned model may have changed. A SentencePiece vocabulary of the architecture phi3 is
    /// Phi-3's under any name; byte-level ones are those of Phi-4, whose tokens differ in it.
    fn strips(&self) -> Result<bool> {
        let name = self.metadata.text("general.name")?.unwrap_or("").to_ascii_lowercase();
        let phi3 = self.architecture == "phi3" && self.model == Model::SentencePiece;
        Ok(phi3 || ["phi-3", "phi3"].iter().any(|part| name.contains(part)))
    }

    /// Builds `tokenizer_config.json`.
    pub(super) fn config(&self, adds_bos: bool) -> Result<Map<String, Value>> {
        let flag = |name: &str| self.metadata.flag(&format!("tokenizer.ggml.add_{name}_token"));
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
            if let Some(token) = self.special(key)? {
                if key != "unknown" && named(self.metadata, key)?.is_none() {
                    log::warn!(
                        "tokenizer.ggml.{key}_token_id is missing; {token:?} is the {key} token, as in llama.cpp"
                    );
                }
                config.insert(format!("{name}_token"), token.into());
            }
        }
        for (name, usual) in [("bos", adds_bos), ("eos", false)] {
            let adds = flag(name)?.unwrap_or(usual);
            if adds && !config.contains_key(&format!("{name}_token")) {
                return Err(Error::Data(format!(
                    "texts get the {name} token (tokenizer.ggml.add_{name}_token), but tokenizer.ggml.{name}_token_id is \
                     missing; name it with gguf-py's `gguf-new-metadata --special-token {name} TEXT`"
                )));
            }
            config.insert(format!("add_{name}_token"), adds.into());
        }
        if let Some(template) = self.template()? {
            config.insert("chat_template".into(), template);
        }
        Ok(config)
    }

    /// Returns the chat template, or a list of templates by name if there are named ones.
    fn template(&self) -> Result<Option<Value>> {
        let default = self.metadata.text("tokenizer.chat_template")?;
        let mut list = Vec::new();
        for key in self.metadata.keys() {
            if let Some(name) = key.strip_prefix(NAMED_TEMPLATE)
                && let Some(text) = self.metadata.text(key)?
            {
                list.push(json!({"name": name, "template": text}));
            }
        }
        if list.is_empty() {
            return Ok(default.map(Value::from));
        }
        list.extend(default.map(|text| json!({"name": "default", "template": text})));
        Ok(Some(list.into()))
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

/// Returns the merges listed in the file, each as a pair of tokens of the vocabulary `ids`.
pub(super) fn listed_merges(metadata: Metadata, ids: &Map<String, Value>) -> Result<Option<Vec<Value>>> {
    let Some(lines) = metadata.texts("tokenizer.ggml.merges")? else { return Ok(None) };
    let split = |line: &&str| {
        let wrong = |why: String| Error::Data(format!("tokenizer.ggml.merges: the merge {line:.80?} {why}"));
        let (left, right) =
            line.split_once(' ').ok_or_else(|| wrong("does not consist of two tokens".into()))?;
        let together = [left, right].concat();
        let mut parts = [left, right, together.as_str()].into_iter();
        if let Some(part) = parts.find(|part| !ids.contains_key(*part)) {
            return Err(wrong(format!("needs {part:.80?}, which is no token; convert the model again")));
        }
        Ok(json!([left, right]))
    };
    lines.iter().map(split).collect::<Result<Vec<_>>>().map(Some)
}
