//! `tokenizer.ggml.model` llama: SentencePiece BPE with byte fallback.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::kinds::NORMAL;
use super::vocabulary::{Built, Vocabulary, ids, listed_merges};
use crate::error::{Error, Result};

/// SentencePiece's space character.
const SPACE: &str = "\u{2581}";
/// Maximum length in bytes of a token whose merges are searched. Each way to split a token costs two look-ups.
const LONGEST: usize = 256;

pub(super) fn build(vocabulary: &Vocabulary) -> Result<Built> {
    // llama.cpp stores tokens that consist of spaces as plain spaces, but the model sees spaces in text as `▁`.
    let only_spaces = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte == b' ');
    let spell = |token: &&str| if only_spaces(token) { SPACE.repeat(token.len()) } else { token.to_string() };
    let spelled: Vec<String> = vocabulary.tokens.iter().map(spell).collect();
    let ids = ids(&spelled);
    let merges = match listed_merges(vocabulary.metadata, &ids)? {
        Some(merges) => merges,
        None => merges(&spelled, &order(vocabulary, &spelled)?),
    };
    let prefix = vocabulary.metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = vocabulary.special("unknown")?;
    let mut parts = Map::new();
    parts.insert("normalizer".into(), normalizer(prefix));
    parts.insert("pre_tokenizer".into(), Value::Null);
    parts.insert("decoder".into(), decoder(prefix));
    let model = json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                       "vocab": ids, "merges": merges});
    parts.insert("model".into(), model);
    Ok(Built { parts, spelled, adds_bos: true })
}

/// Builds the normalizer that replaces spaces with `▁`. With `prefix` it also prepends one `▁` to each stretch of text,
/// as Llama 2's `tokenizer.json` and llama.cpp do.
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

/// Returns the rank of each token by which merges are ordered, lowest first.
fn order(vocabulary: &Vocabulary, spelled: &[String]) -> Result<Vec<f64>> {
    let count = vocabulary.tokens.len();
    if vocabulary.architecture.starts_with("gemma") {
        // The order of Gemma's merges is that of its token ids, not of its scores.
        return Ok((0..count).map(|id| id as f64).collect());
    }
    let scores = vocabulary.metadata.numbers("tokenizer.ggml.scores")?.unwrap_or_default();
    if scores.len() != count {
        return Err(Error::Data(format!("{} scores for {count} tokens", scores.len())));
    }
    check_scores(vocabulary, spelled, &scores)?;
    Ok(scores.iter().map(|score| -score).collect())
}

/// Refuses scores by which merges have no order: of merges with the same score, llama.cpp applies the leftmost first, but
/// a list of merges has an order. llama.cpp's converter gives all tokens one score if the model has no `tokenizer.model`,
/// whatever the model's own order is.
fn check_scores(vocabulary: &Vocabulary, spelled: &[String], scores: &[f64]) -> Result<()> {
    let known: HashSet<&str> = spelled.iter().map(String::as_str).collect();
    let is_made = |token: &str| {
        let mut cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        token.len() <= LONGEST && cuts.any(|(left, right)| known.contains(left) && known.contains(right))
    };
    let mut times: HashMap<u64, usize> = HashMap::new();
    for (id, (token, score)) in spelled.iter().zip(scores).enumerate() {
        if vocabulary.kind(id) != NORMAL || !is_made(token) {
            continue;
        }
        if !score.is_finite() {
            return Err(Error::Data(format!(
                "tokenizer.ggml.scores: the score of token {id} ({token:.80?}) is {score}, which is no number; convert the \
                 model again"
            )));
        }
        *times.entry(score.to_bits()).or_default() += 1;
    }
    let all: usize = times.values().sum();
    let tied: usize = times.values().filter(|times| **times > 1).sum();
    if tied * 2 > all {
        return Err(Error::Data(format!(
            "tokenizer.ggml.scores: {tied} of {all} tokens that are made of others share a score, so the file does not say \
             which is made first; use the model's safetensors, or put the tokenizer.model of the model that it was made from beside it, and \
             convert it again"
        )));
    }
    if tied > 0 {
        log::warn!(
            "tokenizer.ggml.scores: {tied} of {all} tokens that are made of others share a score; where they compete, text \
             may get other tokens than in llama.cpp"
        );
    }
    Ok(())
}

/// Returns every way to build a token from two others, in the order of transformers' `generate_merges`: by the
/// resulting token, then by the lengths of the parts, longer first.
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
