//! A model's tokenizer with its special tokens and chat template, as transformers loads them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value as Json;
use tokenizers::Tokenizer;
use tokenizers::processors::template::TemplateProcessing;

use super::guarded::caught;
use super::messages::Message;
use super::template::{self, ChatTemplate, RenderOptions};
use crate::error::{Error, Result};

/// `tokenizer.json`, special tokens and chat template of one model.
#[derive(Debug)]
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// `bos_token`, `eos_token`, ... by name, as templates see them.
    special_tokens: BTreeMap<String, String>,
    /// Whether the tokenizer itself puts BOS before a text.
    adds_bos: bool,
    /// Whether the tokenizer itself puts EOS behind a text.
    adds_eos: bool,
}

impl ChatTokenizer {
    /// Loads `tokenizer.json`, `tokenizer_config.json` (or, failing that, `special_tokens_map.json`) and the chat template
    /// of the model in `dir`; `chat_template` is the setting of that name.
    ///
    /// # Errors
    /// No `tokenizer.json`, or a file that cannot be read.
    pub fn load(dir: impl AsRef<Path>, chat_template: Option<&str>) -> Result<Self> {
        let dir = dir.as_ref();
        let file = dir.join("tokenizer.json");
        if !file.is_file() {
            return Err(Error::Data(format!(
                "no tokenizer.json in {}; save it with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)",
                dir.display()
            )));
        }
        let bytes = fs::read(&file).map_err(Error::read(&file))?;
        let mut config = read_json(&dir.join("tokenizer_config.json"))?;
        let older = read_json(&dir.join("special_tokens_map.json"))?;
        if let (Json::Object(config), Json::Object(older)) = (&mut config, older) {
            for (name, token) in older {
                config.entry(name).or_insert(token);
            }
        }
        let template = template::find(chat_template, Some(dir), &config)?;
        Self::new(&bytes, &config, template).map_err(|e| Error::Data(format!("{}: {e}", file.display())))
    }

    /// From the contents of `tokenizer.json` and `tokenizer_config.json` (empty: none).
    ///
    /// # Errors
    /// Bytes that are not what they should be.
    pub fn from_bytes(
        tokenizer_json: &[u8],
        tokenizer_config: &[u8],
        chat_template: Option<&str>,
    ) -> Result<Self> {
        let config = match tokenizer_config.trim_ascii() {
            [] => Json::Object(serde_json::Map::new()),
            bytes => serde_json::from_slice(bytes)
                .map_err(|e| Error::Data(format!("tokenizer_config.json is not valid JSON: {e}")))?,
        };
        let template = template::find(chat_template, None, &config)?;
        Self::new(tokenizer_json, &config, template)
    }

    fn new(tokenizer_json: &[u8], config: &Json, template: Option<ChatTemplate>) -> Result<Self> {
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(tokenizer_json))
            .map_err(|e| Error::Data(format!("not a tokenizer of the `tokenizers` library: {e}")))?;
        // Settings saved with the file; transformers resets them before it encodes.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| Error::Data(format!("truncation cannot be switched off: {e}")))?;
        let special_tokens = special_tokens(config);
        obey_add_tokens(&mut tokenizer, config, &special_tokens)?;
        let mut loaded = Self { tokenizer, template, special_tokens, adds_bos: false, adds_eos: false };
        let nothing = loaded.encode("", true)?;
        loaded.adds_bos = loaded.bos_id().is_some_and(|bos| nothing.first() == Some(&bos));
        loaded.adds_eos = loaded.eos_id().is_some_and(|eos| nothing.last() == Some(&eos));
        Ok(loaded)
    }

    /// The same tokenizer with its template at another moment; see [`ChatTemplate::on`].
    ///
    /// # Errors
    /// If `date` is none.
    pub fn on(self, date: &str) -> Result<Self> {
        let template = self.template.as_ref().map(|template| template.on(date)).transpose()?;
        Ok(Self { template, ..self })
    }

    /// Token ids of `text`; `add_special` lets the tokenizer put in what it always does (BOS, where it has one).
    ///
    /// # Errors
    /// Text that the tokenizer cannot represent.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.tokenizer.encode_fast(text, add_special));
        let encoding =
            encoding.map_err(|e| Error::Data(format!("the tokenizer cannot encode this text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, without special tokens if `skip_special`.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.tokenizer.decode(ids, skip_special))
            .map_err(|e| Error::Data(format!("the tokenizer cannot decode {} token(s): {e}", ids.len())))
    }

    /// The text of one token as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The text of a special token by its name in `tokenizer_config.json` (`eos_token`, `pad_token`, ...).
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name).map(String::as_str)
    }

    /// The id of `bos_token`.
    pub fn bos_id(&self) -> Option<u32> {
        self.special_token("bos_token").and_then(|token| self.token_id(token))
    }

    /// The id of `eos_token`.
    pub fn eos_id(&self) -> Option<u32> {
        self.special_token("eos_token").and_then(|token| self.token_id(token))
    }

    /// The id of `pad_token`.
    pub fn pad_id(&self) -> Option<u32> {
        self.special_token("pad_token").and_then(|token| self.token_id(token))
    }

    /// Whether [`encode`](Self::encode) with `add_special` puts BOS before the text.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether [`encode`](Self::encode) with `add_special` puts EOS behind the text.
    pub fn adds_eos(&self) -> bool {
        self.adds_eos
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The chat template, if the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// No chat template; a conversation that the template refuses.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
        self.render_with(&messages.iter().collect::<Vec<_>>(), options)
    }

    /// The text of a conversation with tools or variables of its own.
    ///
    /// # Errors
    /// As [`ChatTokenizer::render`].
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

/// The `tokenizers` library panics on some damaged files, and on some texts under them; here that is an error too.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match caught(work) {
        Some(found) => found.map_err(|error| error.to_string()),
        None => Err("the library gave up on it; is tokenizer.json damaged?".into()),
    }
}

/// The JSON of `file`, an empty object if there is no such file.
fn read_json(file: &Path) -> Result<Json> {
    if !file.is_file() {
        return Ok(Json::Object(serde_json::Map::new()));
    }
    let bytes = fs::read(file).map_err(Error::read(file))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::Data(format!("{} is not valid JSON: {e}", file.display())))
}

/// Every `*_token` of the configuration: a string, or an object with `content`; model-specific ones stand under
/// `extra_special_tokens` by name.
fn special_tokens(config: &Json) -> BTreeMap<String, String> {
    let extra = config.get("extra_special_tokens").and_then(Json::as_object).into_iter().flatten();
    let named = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    extra
        .chain(named)
        .filter_map(|(name, token)| {
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            Some((name.clone(), text.to_owned()))
        })
        .collect()
}

/// transformers' `update_post_processor`: where `add_bos_token` or `add_eos_token` stands in the configuration, they alone
/// decide what is added, whatever `tokenizer.json` says.
fn obey_add_tokens(
    tokenizer: &mut Tokenizer,
    config: &Json,
    special_tokens: &BTreeMap<String, String>,
) -> Result<()> {
    let flags = [config.get("add_bos_token"), config.get("add_eos_token")];
    if flags.iter().all(Option::is_none) {
        return Ok(());
    }
    let [bos, eos] = [("bos_token", flags[0]), ("eos_token", flags[1])].map(|(name, flag)| {
        let token = special_tokens.get(name).filter(|_| flag == Some(&Json::Bool(true)))?;
        Some((token.clone(), tokenizer.token_to_id(token)?))
    });
    let wrong = |e: &dyn std::fmt::Display| {
        Error::Data(format!("add_bos_token / add_eos_token cannot be honoured: {e}"))
    };
    // As a list of pieces, because a token may hold spaces or colons.
    let piece = |token: &Option<(String, u32)>| token.as_ref().map(|(text, _)| format!("{text}:0"));
    let single: Vec<String> = [piece(&bos), Some("$A:0".into()), piece(&eos)].into_iter().flatten().collect();
    let processor = TemplateProcessing::builder()
        .try_single(single)
        .map_err(|e| wrong(&e))?
        .special_tokens([bos, eos].into_iter().flatten().collect::<Vec<_>>())
        .build()
        .map_err(|e| wrong(&e))?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A tokenizer of characters: `a`, `b`, `c` and space, and one merge, `ab`; `<s>` before every text if `bos`. Saved
    /// truncation and padding are there to be ignored.
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

    /// transformers: either flag in the configuration replaces the file's post-processor.
    #[test]
    fn add_bos_and_add_eos_overrule_the_file() {
        let with = |bos, flags: &str| tokenizer(bos, &CONFIG.replacen('{', &format!("{{{flags}, "), 1));
        assert_eq!(with(true, r#""add_bos_token": false"#).encode("c", true).unwrap(), [4]);
        assert_eq!(with(false, r#""add_bos_token": true"#).encode("c", true).unwrap(), [0, 4]);
        let eos = with(true, r#""add_eos_token": true"#);
        assert_eq!(eos.encode("c", true).unwrap(), [4, 1]);
        assert!(eos.adds_eos() && !eos.adds_bos());
        assert_eq!(eos.encode("c", false).unwrap(), [4]);
    }

    #[test]
    fn renders_or_says_that_there_is_no_template() {
        let messages = [Message::new("user", "a"), Message::new("assistant", "b")];
        assert_eq!(tokenizer(true, CONFIG).render(&messages, true).unwrap(), "a</s>b</s> ");
        let error = tokenizer(true, "").render(&messages, true).unwrap_err();
        assert!(error.to_string().contains("data.chat_template"));
    }

    /// Found by fuzzing: the library's own parser of decoders unwraps.
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
        assert!(error.contains("no tokenizer.json"), "{error}");
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
