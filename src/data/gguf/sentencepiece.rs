//! `tokenizer.ggml.model` llama: SentencePiece's BPE, with a piece for each byte.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::vocabulary::{Built, Vocabulary, ids, listed_merges};
use crate::error::{Error, Result};

/// SentencePiece's space.
const SPACE: &str = "\u{2581}";
/// Bytes of a token, at most, whose merges are looked for: each way to cut it costs two look-ups.
const LONGEST: usize = 256;

pub(super) fn build(vocabulary: &Vocabulary) -> Result<Built> {
    // llama.cpp stores tokens of nothing but spaces as such; text has them as `▁` when the model sees it.
    let only_spaces = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte == b' ');
    let spell = |token: &&str| if only_spaces(token) { SPACE.repeat(token.len()) } else { token.to_string() };
    let spelled: Vec<String> = vocabulary.tokens.iter().map(spell).collect();
    let merges = match listed_merges(vocabulary.metadata)? {
        Some(merges) => merges,
        None => merges(&spelled, &order(vocabulary)?),
    };
    let prefix = vocabulary.metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = vocabulary.special("unknown")?;
    let mut parts = Map::new();
    parts.insert("normalizer".into(), normalizer(prefix));
    parts.insert("pre_tokenizer".into(), Value::Null);
    parts.insert("decoder".into(), decoder(prefix));
    let model = json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                       "vocab": ids(&spelled), "merges": merges});
    parts.insert("model".into(), model);
    Ok(Built { parts, spelled, adds_bos: true })
}

/// `▁` for spaces, and one before each stretch of text if `prefix`, as Llama 2's `tokenizer.json` and llama.cpp have it.
fn normalizer(prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if prefix {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
    } else {
        replace
    }
}

fn decoder(prefix: bool) -> Value {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

/// What merges are ordered by, one number a token, the least first.
fn order(vocabulary: &Vocabulary) -> Result<Vec<f64>> {
    let count = vocabulary.tokens.len();
    if vocabulary.architecture.starts_with("gemma") {
        // Gemma's scores are not in the order of its merges; its tokens are.
        return Ok((0..count).map(|id| id as f64).collect());
    }
    let scores = vocabulary.metadata.numbers("tokenizer.ggml.scores")?.unwrap_or_default();
    if scores.len() != count {
        return Err(Error::Data(format!("{} scores for {count} tokens", scores.len())));
    }
    Ok(scores.iter().map(|score| -score).collect())
}

/// Every way to make a token of two, ordered as transformers' `generate_merges` does: by the token made, then by the
/// lengths of its parts, the longer first.
fn merges(spelled: &[String], order: &[f64]) -> Vec<Value> {
    let known: HashMap<&str, usize> =
        spelled.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut found = Vec::new();
    for (id, token) in spelled.iter().enumerate().filter(|(_, token)| token.len() <= LONGEST) {
        let mut cuts = Vec::new();
        for (chars, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (known.get(left), known.get(right)) {
                cuts.push((*l, *r, chars, left, right));
            }
        }
        cuts.sort_unstable();
        let lengths = |chars: usize, right: &str| (chars, right.chars().count());
        found.extend(
            cuts.into_iter().map(|(.., chars, left, right)| (order[id], lengths(chars, right), left, right)),
        );
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    found.into_iter().map(|(.., left, right)| json!([left, right])).collect()
}
