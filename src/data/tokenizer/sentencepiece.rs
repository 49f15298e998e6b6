//! Converts SentencePiece's `tokenizer.model` when there is no `tokenizer.json`: `_convert_from_sentencepiece` and
//! `build_tokenizer_from_spm_proto` of transformers 5.24.

use std::collections::HashMap;

use base64::Engine as _;
use serde_json::{Map, Value as Json, json};
use tokenizers::{AddedToken, Tokenizer};

use super::class::Class;
use super::files::Files;
use super::library::parse;
use super::named::{Pieces, Tokens};
use super::protobuf::{self, Value};
use super::rebuild::{self, Parts};
use crate::error::{Error, Result};

/// Piece types (`ModelProto.SentencePiece.Type`).
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// `TrainerSpec.ModelType`.
const UNIGRAM: i64 = 1;
const BPE: i64 = 2;

struct Piece {
    text: String,
    score: f64,
    kind: u64,
}

/// The parts of a SentencePiece model that determine how text is split.
struct Model {
    pieces: Vec<Piece>,
    kind: i64,
    byte_fallback: bool,
    /// `(id, text)` of unk, bos and eos; a negative id means that the token does not exist.
    unk: (i64, String),
    bos: (i64, String),
    eos: (i64, String),
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    remove_spaces: bool,
    escape_spaces: bool,
}

impl Model {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            kind: UNIGRAM,
            byte_fallback: false,
            unk: (0, "<unk>".into()),
            bos: (1, "<s>".into()),
            eos: (2, "</s>".into()),
            charsmap: Vec::new(),
            dummy_prefix: true,
            remove_spaces: true,
            escape_spaces: true,
        };
        for (number, value) in protobuf::fields(bytes)? {
            match (number, value) {
                (1, Value::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Value::Bytes(spec)) => model.trainer(spec)?,
                (3, Value::Bytes(spec)) => model.normalizer(spec)?,
                // Self-tests and denormalization do not affect how text is split.
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        Ok(model)
    }

    fn trainer(&mut self, spec: &[u8]) -> Result<(), String> {
        for (number, value) in protobuf::fields(spec)? {
            match (number, value) {
                (3, Value::Varint(kind)) => self.kind = kind.cast_signed(),
                (24, Value::Varint(1)) => {
                    return Err("it has white space as a suffix, which is not supported".into());
                }
                (35, Value::Varint(flag)) => self.byte_fallback = flag != 0,
                (40, Value::Varint(id)) => self.unk.0 = id.cast_signed(),
                (41, Value::Varint(id)) => self.bos.0 = id.cast_signed(),
                (42, Value::Varint(id)) => self.eos.0 = id.cast_signed(),
                (45, Value::Bytes(piece)) => self.unk.1 = text(piece)?,
                (46, Value::Bytes(piece)) => self.bos.1 = text(piece)?,
                (47, Value::Bytes(piece)) => self.eos.1 = text(piece)?,
                // Training settings; transformers reads nothing else from this message.
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, spec: &[u8]) -> Result<(), String> {
        for (number, value) in protobuf::fields(spec)? {
            match (number, value) {
                (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Value::Varint(flag)) => self.dummy_prefix = flag != 0,
                (4, Value::Varint(flag)) => self.remove_spaces = flag != 0,
                (5, Value::Varint(flag)) => self.escape_spaces = flag != 0,
                // The name and source of the rules, from which the map is built.
                _ => {}
            }
        }
        Ok(())
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: NORMAL };
        for (number, value) in protobuf::fields(bytes)? {
            match (number, value) {
                (1, Value::Bytes(bytes)) => piece.text = text(bytes)?,
                (2, Value::Fixed32(bits)) => piece.score = f64::from(f32::from_bits(bits)),
                (3, Value::Varint(kind)) => piece.kind = kind,
                (other, _) => return Err(format!("a piece has a field {other}, which is not known")),
            }
        }
        Ok(piece)
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "it has a text that is not UTF-8".to_string())
}

/// Builds the tokenizer that `class` derives from a model, and its special tokens.
///
/// # Errors
/// Fails if the bytes are not a SentencePiece model, or if it is a word or character model.
pub(super) fn build(bytes: &[u8], class: Class, files: &Files) -> Result<(Tokenizer, Tokens)> {
    let model = Model::read(bytes).map_err(|e| {
        Error::Data(format!(
            "tokenizer.model is not a SentencePiece model: {e}; save the tokenizer as tokenizer.json"
        ))
    })?;
    if ![UNIGRAM, BPE].contains(&model.kind) {
        return Err(Error::Data(
            "tokenizer.model is a SentencePiece model of words or characters, which is not supported; save the tokenizer as \
             tokenizer.json"
                .into(),
        ));
    }
    if class == Class::Backend {
        let tokens = Tokens::collect(class, files, model.own_tokens())?;
        let json = model.tokenizer(&tokens, files.config.get("legacy") != Some(&Json::Bool(false)));
        return Ok((parse(&json)?, tokens));
    }
    let marked = Pieces { tokens: model.marked(false), given: true, ..Pieces::default() };
    let tokens = Tokens::collect(class, files, marked)?;
    let (vocab, merges) = model.vocab_and_merges();
    let parts = Parts { vocab, merges: json!(merges), post_processor: Json::Null };
    Ok((parse(&rebuild::build(class, parts, &tokens, &files.config))?, tokens))
}

impl Model {
    /// Returns the control and user-defined pieces, or only the control pieces.
    fn marked(&self, control_only: bool) -> Vec<AddedToken> {
        let special = |piece: &Piece| piece.kind == CONTROL;
        let wanted = |piece: &&Piece| special(piece) || piece.kind == USER_DEFINED && !control_only;
        let added = |piece: &Piece| AddedToken::from(piece.text.clone(), special(piece)).normalized(false);
        self.pieces.iter().filter(wanted).map(added).collect()
    }

    fn own_tokens(&self) -> Pieces {
        let named = [("bos_token", &self.bos), ("eos_token", &self.eos), ("unk_token", &self.unk)];
        let there = named.into_iter().filter(|(_, (id, _))| *id >= 0);
        Pieces {
            tokens: self.marked(true),
            given: true,
            defaults: there.map(|(name, (_, text))| (name.to_owned(), text.clone())).collect(),
            raw: self.dummy_prefix,
        }
    }

    /// Returns the tokens and merges of `generate_merges`: every way to build a piece from two others, ordered by its
    /// id.
    fn vocab_and_merges(&self) -> (Json, Vec<[String; 2]>) {
        let ids: HashMap<&str, usize> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
        let mut ranked = Vec::new();
        for (text, id) in &ids {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                    let lengths = (left.chars().count(), right.chars().count());
                    ranked.push((*id, lengths, *left_id, *right_id, left, right));
                }
            }
        }
        ranked.sort_unstable();
        let merges = ranked.into_iter().map(|(.., left, right)| [left.to_owned(), right.to_owned()]);
        let merges = merges.collect();
        let vocab: Map<String, Json> =
            ids.into_iter().map(|(text, id)| (text.to_owned(), id.into())).collect();
        (vocab.into(), merges)
    }

    /// Returns the texts of the pieces, with those that `added_tokens_decoder` renames.
    fn renamed(&self, tokens: &Tokens) -> Vec<String> {
        let new: HashMap<usize, &str> = tokens.texts_by_id().collect();
        let kept: std::collections::HashSet<&str> = (0..self.pieces.len())
            .filter(|id| !new.contains_key(id))
            .map(|id| self.pieces[id].text.as_str())
            .collect();
        let name = |(id, piece): (usize, &Piece)| {
            let text = new.get(&id).filter(|text| !kept.contains(**text));
            text.map_or_else(|| piece.text.clone(), |text| (*text).to_owned())
        };
        self.pieces.iter().enumerate().map(name).collect()
    }

    /// `build_tokenizer_from_spm_proto`.
    fn tokenizer(&self, tokens: &Tokens, legacy: bool) -> Json {
        let texts = self.renamed(tokens);
        let own: Vec<&str> = self
            .pieces
            .iter()
            .zip(&texts)
            .filter(|(piece, _)| piece.kind == USER_DEFINED)
            .map(|(_, text)| text.as_str())
            .collect();
        let model = if self.kind == UNIGRAM {
            let vocab: Vec<(&str, f64)> =
                self.pieces.iter().map(|piece| (piece.text.as_str(), piece.score)).collect();
            json!({"type": "Unigram", "unk_id": self.unk.0, "vocab": vocab, "byte_fallback": self.byte_fallback})
        } else {
            let vocab: Map<String, Json> =
                texts.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
            json!({"type": "BPE", "dropout": null, "unk_token": self.unk.1, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.byte_fallback,
                   "ignore_merges": !own.is_empty(), "vocab": vocab, "merges": self.ranked_merges(&texts)})
        };
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
               "normalizer": self.normalizers(legacy), "pre_tokenizer": self.pre_tokenizer(legacy, own),
               "post_processor": null, "decoder": self.decoder(), "model": model})
    }

    /// Returns the merges of normal pieces, ordered by score and then by id.
    fn ranked_merges(&self, texts: &[String]) -> Vec<[String; 2]> {
        let normal: HashMap<&str, (f64, usize)> = self
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| piece.kind == NORMAL)
            .map(|(id, piece)| (texts[id].as_str(), (piece.score, id)))
            .collect();
        let mut ranked = Vec::new();
        for (text, (score, id)) in &normal {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if normal.contains_key(left) && normal.contains_key(right) {
                    ranked.push((-score, *id, left, right));
                }
            }
        }
        ranked
            .sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        ranked.into_iter().map(|(_, _, left, right)| [left.to_owned(), right.to_owned()]).collect()
    }

    fn normalizers(&self, legacy: bool) -> Json {
        let replace =
            |regex: &str, by: &str| json!({"type": "Replace", "pattern": {"Regex": regex}, "content": by});
        let mut normalizers = Vec::new();
        if !self.charsmap.is_empty() {
            let map = base64::engine::general_purpose::STANDARD.encode(&self.charsmap);
            normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
        }
        if self.remove_spaces {
            normalizers.extend([replace(r"\A +| +\z", ""), replace(" {2,}", " ")]);
        }
        if self.escape_spaces {
            normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}));
        }
        if self.dummy_prefix && legacy {
            normalizers.push(replace(r"\A▁", "▁▁"));
        }
        json!({"type": "Sequence", "normalizers": normalizers})
    }

    fn pre_tokenizer(&self, legacy: bool, mut own: Vec<&str>) -> Json {
        let mut found = Vec::new();
        if self.dummy_prefix {
            let scheme = if legacy { "always" } else { "first" };
            found.push(
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}),
            );
        }
        if !own.is_empty() {
            own.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
            let escaped: Vec<_> = own.iter().map(|text| fancy_regex::escape(text)).collect();
            found.push(
                json!({"type": "Split", "pattern": {"Regex": escaped.join("|")}, "behavior": "Isolated",
                              "invert": false}),
            );
        }
        if found.is_empty() { Json::Null } else { json!({"type": "Sequence", "pretokenizers": found}) }
    }

    fn decoder(&self) -> Json {
        let mut decoders = vec![json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})];
        if self.byte_fallback {
            decoders.push(json!({"type": "ByteFallback"}));
        }
        if self.dummy_prefix || self.byte_fallback {
            decoders.push(json!({"type": "Fuse"}));
        }
        if self.dummy_prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": decoders})
    }
}
