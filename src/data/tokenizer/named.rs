//! Collects special tokens and added tokens from all files that may contain them: `_from_pretrained` and `__init__` of
//! transformers 5.24 (`tokenization_utils_base.py`, `tokenization_utils_tokenizers.py`).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use super::class::Class;
use super::files::{Files, Vocabulary};
use crate::error::{Error, Result};

/// `SPECIAL_TOKENS_ATTRIBUTES`, in the original order.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token as given in the files: its text alone, or its text with matching options.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Text(String),
    Added(AddedToken),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Added(token) => &token.content,
        }
    }
}

/// The token information that a vocabulary itself contains (SentencePiece).
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// The tokens that the vocabulary marks as special or user-defined.
    pub tokens: Vec<AddedToken>,
    /// Whether the vocabulary marks tokens at all; if so, they take the place of `additional_special_tokens`.
    pub given: bool,
    /// Names and texts of special tokens, used where the configuration has none.
    pub defaults: Vec<(String, String)>,
    /// Whether added tokens are matched in the raw text, before normalization.
    pub raw: bool,
}

/// The token information in the files apart from the vocabulary.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// The tokens that are matched as a whole, ordered by id.
    added: BTreeMap<u64, AddedToken>,
    /// `bos_token` and so on; the seven names of transformers come first.
    named: Vec<(String, Token)>,
    /// Additional special tokens.
    extra: Vec<Token>,
    /// `add_bos_token`, if it has an effect.
    pub add_bos: Option<bool>,
    /// `add_eos_token`, if it has an effect.
    pub add_eos: Option<bool>,
}

impl Tokens {
    /// Collects the tokens as `class` would.
    ///
    /// # Errors
    /// Fails if a token is neither a string nor an object with `content`.
    pub fn collect(class: Class, files: &Files, pieces: Pieces) -> Result<Self> {
        let mut config = files.config.clone();
        let flag = |name: &str| match (&files.vocabulary, files.config.get(name)) {
            // transformers ignores both flags if tokenizer.json exists, because its post-processor decides.
            (Vocabulary::Tokenizer(_), _) | (_, None) => None,
            (_, Some(value)) => Some(value == &Json::Bool(true)),
        };
        let (add_bos, add_eos) = (flag("add_bos_token"), flag("add_eos_token"));
        let add_bos = if class == Class::CodeLlama { add_bos.or(Some(true)) } else { add_bos };
        let mut specific = own_names(&mut config);
        let mut added = BTreeMap::new();
        if let Some(decoder) = config.get("added_tokens_decoder").filter(|decoder| !decoder.is_null()) {
            listed(decoder, &mut added)?;
        } else {
            legacy(files, &mut config, &mut specific, &mut added)?;
        }
        let by_text: BTreeMap<String, AddedToken> =
            added.values().map(|token: &AddedToken| (token.content.clone(), token.clone())).collect();
        if pieces.raw {
            added.values_mut().for_each(|token| token.normalized = false);
        }
        let named = named(class, &config, specific, &by_text, &pieces.defaults)?;
        let extra = match (config.get("extra_special_tokens"), config.get("additional_special_tokens")) {
            (None, _) if pieces.given => pieces.tokens.into_iter().map(Token::Added).collect(),
            (Some(Json::Null), _) | (None, None | Some(Json::Null)) => Vec::new(),
            (Some(Json::Array(list)), _) | (None, Some(Json::Array(list))) => {
                list.iter().map(|json| token("extra_special_tokens", json)).collect::<Result<_>>()?
            }
            (Some(other), _) | (None, Some(other)) => return Err(wrong("extra_special_tokens", other)),
        };
        Ok(Self { added, named, extra, add_bos, add_eos })
    }

    /// Returns the added tokens by id.
    pub fn texts_by_id(&self) -> impl Iterator<Item = (usize, &str)> {
        self.added.iter().filter_map(|(id, token)| Some((usize::try_from(*id).ok()?, token.content.as_str())))
    }

    /// Returns the special tokens by name, as seen by templates.
    pub fn by_name(&self) -> BTreeMap<String, String> {
        self.named.iter().map(|(name, token)| (name.clone(), token.text().to_owned())).collect()
    }

    /// Returns the tokens to add, in order, to a tokenizer that already contains `present`.
    pub fn to_add(&self, present: &[String]) -> Vec<AddedToken> {
        let mut tokens: Vec<AddedToken> = self.added.values().cloned().collect();
        let known = |text: &str, tokens: &[AddedToken]| {
            present.iter().any(|there| there == text) || tokens.iter().any(|there| there.content == text)
        };
        for token in self.named.iter().map(|(_, token)| token).chain(&self.extra) {
            if !known(token.text(), &tokens) {
                tokens.push(match token {
                    Token::Text(text) => AddedToken::from(text.clone(), true),
                    Token::Added(token) => token.clone(),
                });
            }
        }
        for token in &mut tokens {
            token.special |= self.named.iter().any(|(_, named)| named.text() == token.content);
        }
        tokens
    }
}

/// Returns the seven named tokens of transformers, followed by the model's own.
fn named(
    class: Class,
    config: &Map<String, Json>,
    specific: Map<String, Json>,
    by_text: &BTreeMap<String, AddedToken>,
    defaults: &[(String, String)],
) -> Result<Vec<(String, Token)>> {
    let mut named = Vec::new();
    let fallback = |name: &str| {
        let of_class = class.defaults().iter().find(|(key, _)| *key == name).map(|(_, text)| *text);
        of_class.or_else(|| defaults.iter().find(|(key, _)| key == name).map(|(_, text)| text.as_str()))
    };
    for name in NAMED {
        let found = match (config.get(name), fallback(name)) {
            (Some(Json::Null), _) | (None, None) => continue,
            (Some(json), _) => token(name, json)?,
            (None, Some(text)) => Token::Text(text.to_owned()),
        };
        let found = by_text.get(found.text()).cloned().map_or(found, Token::Added);
        named.push((name.to_owned(), found));
    }
    // The class's own tokens come first, with the text from the configuration if it has one.
    let own = class.defaults().iter().filter(|(name, _)| !NAMED.contains(name));
    let mut all: Map<String, Json> = own.map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
    all.extend(specific);
    for (name, json) in &all {
        named.push((name.clone(), token(name, json)?));
    }
    Ok(named)
}

/// Returns special tokens under names that only this model has, and `additional_special_tokens` under its newer name.
fn own_names(config: &mut Map<String, Json>) -> Map<String, Json> {
    let given = config.get("extra_special_tokens").is_some_and(filled);
    if !given && let Some(list) = config.remove("additional_special_tokens") {
        config.insert("extra_special_tokens".into(), list);
    }
    let own = |(name, value): &(&String, &Json)| {
        name.ends_with("_token") && !NAMED.contains(&name.as_str()) && value.is_string()
    };
    let mut specific: Map<String, Json> =
        config.iter().filter(own).map(|(name, value)| (name.clone(), value.clone())).collect();
    take_names(config, &mut specific);
    if specific.is_empty()
        && let Some(Json::Object(map)) = config.remove("model_specific_special_tokens")
    {
        specific = map;
    }
    specific
}

/// Reads `extra_special_tokens` given as an object of names and tokens.
fn take_names(config: &mut Map<String, Json>, specific: &mut Map<String, Json>) {
    if config.get("extra_special_tokens").is_some_and(Json::is_object)
        && let Some(Json::Object(map)) = config.remove("extra_special_tokens")
    {
        specific.extend(map);
    }
}

/// Python's truth value of a JSON value that may be a list or an object.
fn filled(json: &Json) -> bool {
    match json {
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        other => !other.is_null(),
    }
}

/// Reads the files of transformers before 4.34: `special_tokens_map.json` overrides the configuration, and
/// `added_tokens.json` and the tokens of `tokenizer.json` are added.
fn legacy(
    files: &Files,
    config: &mut Map<String, Json>,
    specific: &mut Map<String, Json>,
    added: &mut BTreeMap<u64, AddedToken>,
) -> Result<()> {
    for (name, value) in &files.special_tokens_map {
        let value = match value {
            Json::Object(map) if name != "extra_special_tokens" => {
                let mut map = map.clone();
                map.insert("special".into(), true.into());
                Json::Object(map)
            }
            Json::Array(list) if name == "extra_special_tokens" => {
                let mut all = config.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
                all.extend(list.iter().filter(|token| !all.contains(token)).cloned().collect::<Vec<_>>());
                all.into()
            }
            other => other.clone(),
        };
        config.insert(name.clone(), value);
    }
    take_names(config, specific);
    let special = special_texts(config)?;
    for (text, id) in &files.added_tokens {
        let id = id.as_u64().ok_or_else(|| {
            Error::Data(format!("added_tokens.json: the id of {text:?} is {id}, which is not a token id"))
        })?;
        added.insert(id, AddedToken::from(text.clone(), special.contains(text)));
    }
    if let Vocabulary::Tokenizer(bytes) = &files.vocabulary {
        let list: Listed = serde_json::from_slice(bytes).map_err(|e| {
            Error::Data(format!("tokenizer.json is damaged; its added_tokens cannot be read: {e}"))
        })?;
        added.extend(list.added_tokens.into_iter().map(|entry| (entry.id, entry.token)));
    }
    Ok(())
}

fn special_texts(config: &Map<String, Json>) -> Result<Vec<String>> {
    let named = NAMED.iter().filter_map(|name| config.get(*name).map(|json| (*name, json)));
    let extra = config.get("extra_special_tokens").and_then(Json::as_array).into_iter().flatten();
    named
        .chain(extra.map(|json| ("extra_special_tokens", json)))
        .filter(|(_, json)| !json.is_null())
        .map(|(name, json)| Ok(token(name, json)?.text().to_owned()))
        .collect()
}

/// The `added_tokens` of `tokenizer.json`; everything else in the file is ignored.
#[derive(serde::Deserialize)]
struct Listed {
    #[serde(default)]
    added_tokens: Vec<Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    id: u64,
    #[serde(flatten)]
    token: AddedToken,
}

/// Reads `added_tokens_decoder`: tokens by id.
fn listed(decoder: &Json, added: &mut BTreeMap<u64, AddedToken>) -> Result<()> {
    let Json::Object(map) = decoder else { return Err(wrong("added_tokens_decoder", decoder)) };
    for (id, json) in map {
        let number = id.parse().map_err(|_| {
            Error::Data(format!("tokenizer_config.json: {id:?} in added_tokens_decoder is not a token id"))
        })?;
        match token("added_tokens_decoder", json)? {
            Token::Added(token) => added.insert(number, token),
            Token::Text(_) => return Err(wrong("added_tokens_decoder", json)),
        };
    }
    Ok(())
}

fn wrong(name: &str, json: &Json) -> Error {
    let shown: String = json.to_string().chars().take(60).collect();
    Error::Data(format!(
        "{name} has {shown}, which is not a token; write its text, or an object with content"
    ))
}

/// Reads a string or an object with `content`. Missing fields have the defaults of Python's `AddedToken(...)`.
fn token(name: &str, json: &Json) -> Result<Token> {
    let map = match json {
        Json::String(text) => return Ok(Token::Text(text.clone())),
        Json::Object(map) => map,
        other => return Err(wrong(name, other)),
    };
    let Some(content) = map.get("content").and_then(Json::as_str) else { return Err(wrong(name, json)) };
    let flag = |key: &str| match map.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(wrong(name, json)),
    };
    let special = flag("special")?.unwrap_or(false);
    Ok(Token::Added(
        AddedToken::from(content, special)
            .single_word(flag("single_word")?.unwrap_or(false))
            .lstrip(flag("lstrip")?.unwrap_or(false))
            .rstrip(flag("rstrip")?.unwrap_or(false))
            .normalized(flag("normalized")?.unwrap_or(!special)),
    ))
}
