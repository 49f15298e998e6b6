//! A base in a GGUF file: what a model directory would hold beside its weights.

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::data::gguf::TokenizerFiles;
use crate::error::Result;
use crate::files;
use crate::weights::gguf::GgufFile;

/// Configuration and tokenizer of a GGUF base.
pub struct GgufFiles {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// `tokenizer.json` and `tokenizer_config.json`.
    pub tokenizer: TokenizerFiles,
    /// Tokens that end a completion.
    pub ends: Vec<u32>,
}

/// Whether `path` is a GGUF file, by its name or its first bytes.
pub fn is_file(path: &Path) -> bool {
    let begins = || {
        let mut magic = [0; 4];
        std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
            && magic == *b"GGUF"
    };
    path.is_file() && (path.extension().is_some_and(|it| it.eq_ignore_ascii_case("gguf")) || begins())
}

impl GgufFiles {
    /// Reads the metadata of `file`, whose `config.json` was derived before.
    ///
    /// # Errors
    /// If the metadata has no supported tokenizer.
    pub fn new(file: &GgufFile, config: Map<String, Value>) -> Result<Self> {
        Ok(Self { config, tokenizer: TokenizerFiles::read(file)?, ends: TokenizerFiles::ends(file)? })
    }

    /// Writes the files of a model directory.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let generation = json!({"eos_token_id": self.ends, "bos_token_id": self.config.get("bos_token_id"),
                                "pad_token_id": self.config.get("pad_token_id")});
        let written = [
            ("config.json", &Value::Object(self.config.clone())),
            ("generation_config.json", &generation),
            ("tokenizer.json", &self.tokenizer.tokenizer),
            ("tokenizer_config.json", &self.tokenizer.config),
        ];
        for (name, value) in written {
            files::write_bytes(&directory.join(name), format!("{value:#}\n").as_bytes())?;
        }
        Ok(())
    }
}
