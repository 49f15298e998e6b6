//! Converts Mistral's `tekken.json` to a `tokenizer.json`: `MistralConverter` of transformers 5.24.

use std::collections::HashMap;

use base64::Engine as _;
use serde_json::{Map, Value as Json, json};

use super::bytes::letters;
use crate::error::{Error, Result};

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::Data(format!("tekken.json: {what}"))
}

/// Returns the equivalent `tokenizer.json`.
///
/// # Errors
/// Fails if the file has another structure, or predates the field `special_tokens`.
pub(super) fn convert(file: &Json) -> Result<Json> {
    let config = file.get("config").ok_or_else(|| wrong("`config` is missing"))?;
    let pattern =
        config.get("pattern").and_then(Json::as_str).ok_or_else(|| wrong("`config.pattern` is missing"))?;
    let special = special_tokens(file, config)?;
    let entries = file.get("vocab").and_then(Json::as_array).ok_or_else(|| wrong("`vocab` is missing"))?;
    let kept = match config.get("default_vocab_size").and_then(Json::as_u64) {
        Some(size) => {
            usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(special.len()).min(entries.len())
        }
        None => entries.len(),
    };
    let ranks = entries[..kept].iter().enumerate().map(|(rank, entry)| token_bytes(rank, entry));
    let ranks = ranks.collect::<Result<Vec<Vec<u8>>>>()?;
    let mut vocab = Map::new();
    for (id, token) in special.iter().enumerate() {
        vocab.insert(token.clone(), id.into());
    }
    for (rank, token) in ranks.iter().enumerate() {
        vocab.insert(letters(token), (rank + special.len()).into());
    }
    let added: Vec<Json> = special.iter().enumerate().map(|(id, token)| added(id, token)).collect();
    let byte_level = |splits: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": splits});
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level(false)]},
        "post_processor": byte_level(true), "decoder": byte_level(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                  "vocab": vocab, "merges": merges(&ranks)},
    }))
}

fn added(id: usize, token: &str) -> Json {
    json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

/// Returns the special tokens by id, padded with `<SPECIAL_n>`.
fn special_tokens(file: &Json, config: &Json) -> Result<Vec<String>> {
    let Some(list) = file.get("special_tokens").and_then(Json::as_array) else {
        return Err(wrong(
            "`special_tokens` is missing, as in files of early 2024, whose tokens are defined in mistral-common's code; save \
             the tokenizer as tokenizer.json",
        ));
    };
    let mut ranked = list
        .iter()
        .map(|entry| {
            let token = entry.get("token_str").and_then(Json::as_str);
            entry.get("rank").and_then(Json::as_u64).zip(token.map(str::to_owned))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| wrong("an entry of `special_tokens` has no rank or no token_str"))?;
    ranked.sort();
    if ranked.iter().enumerate().any(|(place, (rank, _))| *rank != place as u64) {
        return Err(wrong("ranks of `special_tokens` are not 0, 1, 2, ..."));
    }
    let mut tokens: Vec<String> = ranked.into_iter().map(|(_, token)| token).collect();
    let count = config.get("default_num_special_tokens").and_then(Json::as_u64).unwrap_or(0);
    if count > 1 << 20 {
        return Err(wrong(format!("`default_num_special_tokens` is {count}")));
    }
    for id in tokens.len() as u64..count {
        tokens.push(format!("<SPECIAL_{id}>"));
    }
    Ok(tokens)
}

fn token_bytes(rank: usize, entry: &Json) -> Result<Vec<u8>> {
    let text = entry.get("token_bytes").and_then(Json::as_str);
    text.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok())
        .ok_or_else(|| wrong(format!("`vocab[{rank}].token_bytes` is not base64")))
}

/// Returns every way to build a token from two others, ordered by the token's rank and then by the ranks of the parts.
fn merges(ranks: &[Vec<u8>]) -> Vec<[String; 2]> {
    let by_bytes: HashMap<&[u8], usize> =
        ranks.iter().enumerate().map(|(rank, token)| (token.as_slice(), rank)).collect();
    let mut merges = Vec::new();
    for (rank, token) in ranks.iter().enumerate() {
        if by_bytes.get(token.as_slice()) != Some(&rank) {
            continue;
        }
        let mut pairs: Vec<(usize, usize)> = (1..token.len())
            .filter_map(|at| Some((*by_bytes.get(&token[..at])?, *by_bytes.get(&token[at..])?)))
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(left, right)| [letters(&ranks[left]), letters(&ranks[right])]));
    }
    merges
}
