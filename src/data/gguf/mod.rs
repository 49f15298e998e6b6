//! The tokenizer in a GGUF file's metadata, converted to the equivalent `tokenizer.json` and `tokenizer_config.json`.
//!
//! The file contains the vocabulary, the merges or scores, the token types and the special token ids. The pre-tokenizer
//! is given only by name (`tokenizer.ggml.pre`). The meaning of the names follows llama.cpp's `llama-vocab.cpp` and the
//! `tokenizer.json` of the original models. transformers' `integrations/gguf` builds the same files.

mod byte_level;
mod kinds;
mod sentencepiece;
mod special;
#[cfg(test)]
mod tests;
mod vocabulary;

use serde_json::{Map, Value, json};

use self::vocabulary::{Model, Vocabulary};
use super::tokenizer::ChatTokenizer;
use crate::error::{Error, Result};
use crate::weights::gguf::GgufFile;

/// The two files of a tokenizer.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`.
    pub config: Value,
}

impl TokenizerFiles {
    /// Reads the tokenizer from a model's metadata.
    ///
    /// # Errors
    /// Fails if the metadata has no tokenizer, its model is not supported, or its parts are inconsistent.
    pub fn read(file: &GgufFile) -> Result<Self> {
        located(file, Vocabulary::read(file.metadata()).and_then(|vocabulary| build(&vocabulary)))
    }

    /// Returns the sorted ids of the tokens that end a completion: those that the file names and those that llama.cpp
    /// recognizes by their text (`llama-vocab.cpp`, `special_eog_ids`).
    ///
    /// # Errors
    /// Same as [`TokenizerFiles::read`].
    pub fn ends(file: &GgufFile) -> Result<Vec<u32>> {
        let ends = located(file, Vocabulary::read(file.metadata()))?.ends;
        Ok(ends.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
    }

    /// Builds the tokenizer. `chat_template` is the configuration key of that name.
    ///
    /// # Errors
    /// Fails if the vocabulary and the merges do not match, or if the template is not valid Jinja.
    pub fn load(&self, chat_template: Option<&str>) -> Result<ChatTokenizer> {
        let bytes = |value: &Value| {
            serde_json::to_vec(value)
                .map_err(|e| Error::Data(format!("the tokenizer cannot be written: {e}")))
        };
        ChatTokenizer::from_bytes(&bytes(&self.tokenizer)?, &bytes(&self.config)?, chat_template)
    }
}

/// Adds the file's path to an error about its tokenizer.
fn located<T>(file: &GgufFile, result: Result<T>) -> Result<T> {
    result.map_err(|e| Error::Data(format!("{}: its tokenizer: {e}", file.path().display())))
}

fn build(vocabulary: &Vocabulary) -> Result<TokenizerFiles> {
    let built = match vocabulary.model {
        Model::ByteLevel => byte_level::build(vocabulary)?,
        Model::SentencePiece => sentencepiece::build(vocabulary)?,
    };
    let config = vocabulary.config(built.adds_bos)?;
    let special = config.iter().filter(|(key, _)| key.ends_with("_token"));
    let special: Vec<&str> = special.filter_map(|(_, token)| token.as_str()).collect();
    let mut tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
                               "added_tokens": vocabulary.added(&special, &built.spelled)?,
                               "post_processor": post_processor(&config, vocabulary)});
    if let Value::Object(tokenizer) = &mut tokenizer {
        tokenizer.extend(built.parts);
    }
    Ok(TokenizerFiles { tokenizer, config: config.into() })
}

/// Builds the post-processor that adds BOS before and EOS after a text, if the file asks for it.
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
