//! A model's tokenizer with its special tokens and chat template, as transformers loads them.

mod build;
mod bytes;
mod class;
mod files;
mod library;
mod named;
mod pieces;
mod protobuf;
mod rebuild;
mod sentencepiece;
mod tekken;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};
use tokenizers::Tokenizer;

use self::files::{Files, Vocabulary};
use self::library::guarded;
pub use self::pieces::Piece;
use super::messages::Message;
use super::template::{self, ChatTemplate, RenderOptions};
use crate::error::{Error, Result};

/// `tokenizer.json`, special tokens and chat template of one model.
#[derive(Debug)]
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// `bos_token`, `eos_token`, ... by name, as seen by templates.
    special_tokens: BTreeMap<String, String>,
    /// Whether the tokenizer itself adds BOS before a text.
    adds_bos: bool,
    /// Whether the tokenizer itself adds EOS after a text.
    adds_eos: bool,
}

impl ChatTokenizer {
    /// Loads the tokenizer and the chat template of the model in `dir` from any layout that transformers saves or
    /// reads: `tokenizer.json`, `vocab.json` with `merges.txt`, `tokenizer.model` (SentencePiece) or `tekken.json`,
    /// accompanied by `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and the model type in
    /// `config.json`. `chat_template` is the configuration key of that name.
    ///
    /// # Errors
    /// Fails if there is no vocabulary in any form, a file cannot be read, or the tokenizer class or vocabulary is not
    /// supported.
    pub fn load(dir: impl AsRef<Path>, chat_template: Option<&str>) -> Result<Self> {
        let dir = dir.as_ref();
        let files = Files::read(dir)?;
        let template = template::find(chat_template, Some(dir), &files.config)?;
        Self::new(&files, template)
            .map_err(|e| Error::Data(format!("the tokenizer in {}: {e}", dir.display())))
    }

    /// Builds a tokenizer from the contents of `tokenizer.json` and `tokenizer_config.json` (empty if there is none).
    ///
    /// # Errors
    /// Fails if the contents are invalid.
    pub fn from_bytes(
        tokenizer_json: &[u8],
        tokenizer_config: &[u8],
        chat_template: Option<&str>,
    ) -> Result<Self> {
        let config: Map<String, Json> = match tokenizer_config.trim_ascii() {
            [] => Map::new(),
            bytes => serde_json::from_slice(bytes)
                .map_err(|e| Error::Data(format!("tokenizer_config.json is not a JSON object: {e}")))?,
        };
        let template = template::find(chat_template, None, &config)?;
        let files = Files {
            vocabulary: Vocabulary::Tokenizer(tokenizer_json.to_vec()),
            config,
            special_tokens_map: Map::new(),
            added_tokens: Map::new(),
            model: Map::new(),
        };
        Self::new(&files, template)
    }

    fn new(files: &Files, template: Option<ChatTemplate>) -> Result<Self> {
        let (tokenizer, tokens) = build::build(files)?;
        let special_tokens = tokens.by_name();
        let mut loaded = Self { tokenizer, template, special_tokens, adds_bos: false, adds_eos: false };
        let nothing = loaded.encode("", true)?;
        loaded.adds_bos = loaded.bos_id().is_some_and(|bos| nothing.first() == Some(&bos));
        loaded.adds_eos = loaded.eos_id().is_some_and(|eos| nothing.last() == Some(&eos));
        if let Some(warning) = loaded.spelled_marks()? {
            log::warn!("{warning}");
        }
        Ok(loaded)
    }

    /// Warns of a built-in template whose marks are letters to this tokenizer: its model has never seen them.
    fn spelled_marks(&self) -> Result<Option<String>> {
        let Some((name, marks)) = self.template().and_then(ChatTemplate::marks) else { return Ok(None) };
        let mut spelled = Vec::new();
        for mark in marks {
            let tokens = self.encode(mark, false)?.len();
            if tokens != 1 {
                spelled.push(format!("{mark} ({tokens} tokens)"));
            }
        }
        Ok((!spelled.is_empty()).then(|| {
            format!(
                "the chat template `{name}` writes {}, which are letters to this tokenizer, not single tokens; choose the \
                 template of the model's family, or one that writes plain text (zephyr)",
                spelled.join(", ")
            )
        }))
    }

    /// Returns the same tokenizer with its template at another time, if one is given; see [`ChatTemplate::on`].
    ///
    /// # Errors
    /// Fails if `date` is not a valid date.
    pub fn on(self, date: Option<&str>) -> Result<Self> {
        let Some(date) = date else { return Ok(self) };
        let template = self.template.as_ref().map(|template| template.on(date)).transpose()?;
        Ok(Self { template, ..self })
    }

    /// Adds everything that its token ids depend on to a hash: the vocabulary and its rules, the special tokens, the chat
    /// template and its date.
    ///
    /// # Errors
    /// Fails if the tokenizer cannot be written as JSON.
    pub fn identify(&self, hasher: &mut blake3::Hasher) -> Result<()> {
        let json = self.tokenizer.to_string(false).map_err(|e| Error::Data(e.to_string()))?;
        let template = self.template.as_ref().map(|template| (template.source(), template.date()));
        for part in [json, format!("{:?}", self.special_tokens), format!("{template:?}")] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        Ok(())
    }

    /// Encodes `text`. With `add_special` the tokenizer adds its usual special tokens (BOS, if it has one).
    ///
    /// # Errors
    /// Fails if the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.tokenizer.encode_fast(text, add_special));
        let encoding =
            encoding.map_err(|e| Error::Data(format!("the tokenizer cannot encode this text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Decodes `ids`, without special tokens if `skip_special` is set.
    ///
    /// # Errors
    /// Fails if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.tokenizer.decode(ids, skip_special))
            .map_err(|e| Error::Data(format!("the tokenizer cannot decode {} token(s): {e}", ids.len())))
    }

    /// Returns the text of a token as written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Returns the id of a token given as written in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Returns the text of a special token by its name in `tokenizer_config.json` (`eos_token`, `pad_token`, ...).
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name).map(String::as_str)
    }

    /// Returns the id of `bos_token`.
    pub fn bos_id(&self) -> Option<u32> {
        self.special_token("bos_token").and_then(|token| self.token_id(token))
    }

    /// Returns the id of `eos_token`.
    pub fn eos_id(&self) -> Option<u32> {
        self.special_token("eos_token").and_then(|token| self.token_id(token))
    }

    /// Returns the id of `pad_token`.
    pub fn pad_id(&self) -> Option<u32> {
        self.special_token("pad_token").and_then(|token| self.token_id(token))
    }

    /// Returns the token that TRL pads with: the padding token, or the EOS of a tokenizer without one.
    pub fn padding(&self) -> Option<u32> {
        self.pad_id().or_else(|| self.eos_id())
    }

    /// Whether [`encode`](Self::encode) with `add_special` adds BOS before the text.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether [`encode`](Self::encode) with `add_special` adds EOS after the text.
    pub fn adds_eos(&self) -> bool {
        self.adds_eos
    }

    /// Returns the number of tokens, including added ones.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Returns the chat template, if the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Renders a conversation to text.
    ///
    /// # Errors
    /// Fails if there is no chat template or it rejects the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
        self.render_with(&messages.iter().collect::<Vec<_>>(), options)
    }

    /// Renders a conversation with its own tools or template variables.
    ///
    /// # Errors
    /// Same as [`ChatTokenizer::render`].
    pub fn render_with(&self, messages: &[&Message], options: RenderOptions) -> Result<String> {
        let template = self.template.as_ref().ok_or_else(|| {
            Error::Data(
                "conversations need a chat template and the model has none; set data.chat_template to Jinja text or a \
                 file, or give prompt, chosen and rejected as strings"
                    .into(),
            )
        })?;
        template.render(messages, &self.special_tokens, options)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// A character tokenizer with `a`, `b`, `c` and space, and one merge, `ab`. It adds `<s>` before every text if
    /// `bos` is set. Its saved truncation and padding must be ignored.
    pub fn tokenizer_json(bos: bool) -> Vec<u8> {
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        let processor = bos.then(|| {
            let piece = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
            json!({"type": "TemplateProcessing", "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
                   "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                   "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}})
        });
        let file = json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                        "pad_type_id": 0, "pad_token": "<s>"},
            "added_tokens": [added(0, "<s>"), added(1, "</s>")],
            "normalizer": null, "pre_tokenizer": null, "post_processor": processor, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                      "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, " ": 5, "ab": 6}, "merges": [["a", "b"]]}
        });
        file.to_string().into_bytes()
    }

    pub fn tokenizer(bos: bool, config: &str) -> ChatTokenizer {
        ChatTokenizer::from_bytes(&tokenizer_json(bos), config.as_bytes(), None).unwrap()
    }

    pub const CONFIG: &str = r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null,
        "chat_template": "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}{% if add_generation_prompt %} {% endif %}"}"#;

    #[test]
    fn special_tokens_are_strings_or_objects() {
        let tokenizer = tokenizer(true, CONFIG);
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(0), Some(1), None));
        assert_eq!((tokenizer.adds_bos(), tokenizer.adds_eos()), (true, false));
        assert_eq!(tokenizer.vocab_size(), 7);
        assert_eq!(tokenizer.token(6).as_deref(), Some("ab"));
    }

    #[test]
    fn saved_truncation_and_padding_do_not_touch_a_text() {
        let tokenizer = tokenizer(true, CONFIG);
        assert_eq!(tokenizer.encode("c c c", true).unwrap(), [0, 4, 5, 4, 5, 4]);
        assert_eq!(tokenizer.encode("ab</s>", false).unwrap(), [6, 1]);
        assert_eq!(tokenizer.decode(&[0, 6, 5, 4], true).unwrap(), "ab c");
        assert_eq!(tokenizer.decode(&[0, 6], false).unwrap(), "<s>ab");
    }

    /// transformers 5: if tokenizer.json exists, its post-processor decides, and the flags are not read.
    #[test]
    fn the_file_overrules_add_bos_and_add_eos() {
        let with = |bos, flags: &str| tokenizer(bos, &CONFIG.replacen('{', &format!("{{{flags}, "), 1));
        assert_eq!(with(true, r#""add_bos_token": false"#).encode("c", true).unwrap(), [0, 4]);
        assert_eq!(with(false, r#""add_bos_token": true"#).encode("c", true).unwrap(), [4]);
        assert_eq!(with(true, r#""add_eos_token": true"#).encode("c", true).unwrap(), [0, 4]);
    }

    #[test]
    fn dropout_is_refused() {
        let file = |dropout: &str| {
            let file = String::from_utf8(tokenizer_json(false)).unwrap();
            file.replace(r#""dropout":null"#, &format!(r#""dropout":{dropout}"#)).into_bytes()
        };
        let error = ChatTokenizer::from_bytes(&file("0.1"), b"", None).unwrap_err().to_string();
        assert!(error.contains("dropout of 0.1") && error.contains("model.dropout"), "{error}");
        assert!(ChatTokenizer::from_bytes(&file("0.0"), b"", None).is_ok());
    }

    #[test]
    fn renders_or_says_that_there_is_no_template() {
        let messages = [Message::new("user", "a"), Message::new("assistant", "b")];
        assert_eq!(tokenizer(true, CONFIG).render(&messages, true).unwrap(), "a</s>b</s> ");
        let error = tokenizer(true, "").render(&messages, true).unwrap_err();
        assert!(error.to_string().contains("data.chat_template"));
    }

    /// Found by fuzzing: the library's parser of decoders calls unwrap.
    #[test]
    fn a_file_that_makes_the_library_panic_is_an_error() {
        let whole = String::from_utf8(tokenizer_json(false)).unwrap();
        let broken = whole.replace(r#""decoder":{"type":"Fuse"}"#, r#""decoder":{"type":"Fuse" 3}"#);
        assert_ne!(broken, whole);
        assert!(ChatTokenizer::from_bytes(broken.as_bytes(), b"", None).is_err());
    }

    #[test]
    fn loads_a_directory_and_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = ChatTokenizer::load(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("no tokenizer in"), "{error}");
        fs::write(dir.path().join("tokenizer.json"), tokenizer_json(false)).unwrap();
        fs::write(dir.path().join("special_tokens_map.json"), r#"{"eos_token": "</s>"}"#).unwrap();
        assert_eq!(ChatTokenizer::load(dir.path(), None).unwrap().eos_id(), Some(1));
        fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
        assert!(
            ChatTokenizer::load(dir.path(), None).unwrap_err().to_string().contains("tokenizer_config.json")
        );
        assert!(ChatTokenizer::from_bytes(b"{}", b"", None).is_err());
    }
}
