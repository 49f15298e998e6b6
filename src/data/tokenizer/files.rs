//! The tokenizer files in a model's directory, read but not yet interpreted.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::class::Declared;
use crate::error::{Error, Result};

/// The vocabulary, in the first supported form that exists.
#[derive(Debug)]
pub(super) enum Vocabulary {
    /// `tokenizer.json`.
    Tokenizer(Vec<u8>),
    /// `vocab.json` and `merges.txt`.
    Merges {
        /// The tokens and their ids.
        vocab: Map<String, Json>,
        /// The merge pairs, highest priority first.
        merges: Vec<[String; 2]>,
    },
    /// SentencePiece's `tokenizer.model`.
    SentencePiece(Vec<u8>),
    /// Mistral's `tekken.json`.
    Tekken(Json),
}

/// All tokenizer files of a directory.
#[derive(Debug)]
pub(super) struct Files {
    /// The vocabulary.
    pub vocabulary: Vocabulary,
    /// `tokenizer_config.json`; empty if it does not exist.
    pub config: Map<String, Json>,
    /// `special_tokens_map.json`; empty if it does not exist.
    pub special_tokens_map: Map<String, Json>,
    /// `added_tokens.json`, tokens and their ids; empty if it does not exist.
    pub added_tokens: Map<String, Json>,
    /// `config.json`; empty if it does not exist.
    pub model: Map<String, Json>,
}

impl Files {
    /// Reads the files that exist in `dir`.
    ///
    /// # Errors
    /// Fails if there is no vocabulary in any form or a file cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let config = object(&dir.join("tokenizer_config.json"))?;
        if config.contains_key("fast_tokenizer_files") {
            return Err(Error::Data(format!(
                "{}: fast_tokenizer_files names tokenizer files by the version of transformers, which is not supported; save \
                 the tokenizer again",
                dir.join("tokenizer_config.json").display()
            )));
        }
        Ok(Self {
            vocabulary: vocabulary(dir)?,
            config,
            special_tokens_map: object(&dir.join("special_tokens_map.json"))?,
            added_tokens: object(&dir.join("added_tokens.json"))?,
            model: object(&dir.join("config.json"))?,
        })
    }

    /// Returns the inputs that determine the tokenizer class.
    pub fn declared(&self) -> Declared<'_> {
        let auto_map = self.config.get("auto_map");
        Declared {
            tokenizer_config: self.config.get("tokenizer_class").and_then(Json::as_str),
            model_config: self.model.get("tokenizer_class").and_then(Json::as_str),
            model_type: self.model.get("model_type").and_then(Json::as_str),
            remote_code: auto_map.is_some_and(|map| map.is_array() || map.get("AutoTokenizer").is_some()),
            byte_level: match &self.vocabulary {
                Vocabulary::Tokenizer(bytes) => bytes.windows(11).any(|window| window == b"\"ByteLevel\""),
                _ => false,
            },
        }
    }
}

fn vocabulary(dir: &Path) -> Result<Vocabulary> {
    let bytes = |name: &str| {
        let file = dir.join(name);
        file.is_file().then(|| fs::read(&file).map_err(Error::read(&file))).transpose()
    };
    if let Some(bytes) = bytes("tokenizer.json")? {
        return Ok(Vocabulary::Tokenizer(bytes));
    }
    if dir.join("tekken.json").is_file() {
        return Ok(Vocabulary::Tekken(object(&dir.join("tekken.json"))?.into()));
    }
    if let Some(bytes) = bytes("tokenizer.model")? {
        return Ok(Vocabulary::SentencePiece(bytes));
    }
    if let (true, Some(merges)) = (dir.join("vocab.json").is_file(), bytes("merges.txt")?) {
        let file = dir.join("merges.txt");
        let text = String::from_utf8(merges)
            .map_err(|e| Error::Data(format!("{} is not UTF-8: {e}", file.display())))?;
        let merges = self::merges(&text).map_err(|e| Error::Data(format!("{}: {e}", file.display())))?;
        return Ok(Vocabulary::Merges { vocab: object(&dir.join("vocab.json"))?, merges });
    }
    Err(Error::Data(format!(
        "no tokenizer in {}: there is no tokenizer.json, tokenizer.model, tekken.json, nor vocab.json with merges.txt; save one \
         with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        dir.display()
    )))
}

/// Parses the pairs of `merges.txt`, as the `tokenizers` library does.
fn merges(text: &str) -> Result<Vec<[String; 2]>, String> {
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let mut parts = line.split(' ');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(left), Some(right), None) => merges.push([left.to_owned(), right.to_owned()]),
            _ => return Err(format!("line {} is not two tokens: {line:?}", number + 1)),
        }
    }
    Ok(merges)
}

/// Reads the JSON object in `file`; returns an empty one if the file does not exist.
fn object(file: &Path) -> Result<Map<String, Json>> {
    if !file.is_file() {
        return Ok(Map::new());
    }
    let bytes = fs::read(file).map_err(Error::read(file))?;
    match serde_json::from_slice(&bytes) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(_) => Err(Error::Data(format!("{} is not a JSON object", file.display()))),
        Err(e) => Err(Error::Data(format!("{} is not valid JSON: {e}", file.display()))),
    }
}
