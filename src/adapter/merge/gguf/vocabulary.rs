//! A `tokenizer.json` as one of llama.cpp's two BPE tokenizers: byte-level with merges (`gpt2`), and
//! SentencePiece's, which merges by scores (`llama`).

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};

/// The settings of llama.cpp's tokenizer.
pub(super) struct Vocabulary {
    /// `tokenizer.ggml.model`.
    pub model: &'static str,
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: &'static str,
    pub tokens: Vec<String>,
    /// `llama_token_type` of each token.
    pub kinds: Vec<i32>,
    pub scores: Option<Vec<f32>>,
    pub merges: Option<Vec<String>>,
    pub space_prefix: Option<bool>,
}

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Llama 3's expression, and Qwen 2's, which splits numbers into single digits.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Converts a tokenizer, with as many tokens as the embedding has rows.
///
/// # Errors
/// If neither tokenizer of llama.cpp does what this tokenizer does.
pub(super) fn of(tokenizer: &Json, rows: usize) -> Result<Vocabulary> {
    let model = &tokenizer["model"];
    if model["type"] != "BPE" {
        return Err(refused(&format!("its model is {}, not BPE", model["type"])));
    }
    let (tokens, mut kinds) = tokens(tokenizer, rows)?;
    let merges = merges(&model["merges"])?;
    let found = if model["byte_fallback"] == true {
        let space_prefix = space_prefix(tokenizer)?;
        let scores = scores(&tokens, &merges);
        let unknown = model["unk_token"].as_str();
        for (token, kind) in tokens.iter().zip(&mut kinds) {
            if unknown == Some(token) {
                *kind = UNKNOWN;
            } else if *kind == NORMAL && is_byte(token) {
                *kind = BYTE;
            }
        }
        let (scores, space_prefix) = (Some(scores), Some(space_prefix));
        Vocabulary { model: "llama", pre: "default", tokens, kinds, scores, merges: None, space_prefix }
    } else {
        let pre = pre_tokenizer(tokenizer)?;
        let merges = Some(merges.into_iter().map(|(a, b)| format!("{a} {b}")).collect());
        Vocabulary { model: "gpt2", pre, tokens, kinds, scores: None, merges, space_prefix: None }
    };
    Ok(found)
}

fn refused(why: &str) -> Error {
    Error::Adapter(format!(
        "this tokenizer cannot be written into a GGUF model here: {why}; merge into safetensors and convert that with \
         llama.cpp's convert_hf_to_gguf.py"
    ))
}

/// All tokens by id, with their types.
fn tokens(tokenizer: &Json, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
    let mut found: Vec<Option<(String, i32)>> = vec![None; rows];
    let mut put = |id: Option<u64>, text: &str, kind: i32| {
        let id = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < rows);
        let id = id.ok_or_else(|| {
            refused(&format!("token {text:?} has no row in the embedding, which has {rows}"))
        })?;
        found[id] = Some((text.into(), kind));
        Ok::<_, Error>(())
    };
    for (text, id) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
        put(id.as_u64(), text, NORMAL)?;
    }
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        put(token["id"].as_u64(), token["content"].as_str().unwrap_or_default(), kind)?;
    }
    let filled = found.into_iter().enumerate();
    Ok(filled.map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED))).unzip())
}

/// The pairs in order, in the newer form `["a", "b"]` or the older `"a b"`.
fn merges(merges: &Json) -> Result<Vec<(String, String)>> {
    let pair = |merge: &Json| match merge {
        Json::Array(pair) => Some((pair.first()?.as_str()?.to_string(), pair.get(1)?.as_str()?.to_string())),
        merge => merge.as_str()?.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())),
    };
    let all = merges
        .as_array()
        .into_iter()
        .flatten()
        .map(|merge| pair(merge).ok_or_else(|| refused(&format!("a merge is {merge}"))));
    all.collect()
}

/// The name of the expression that splits text.
fn pre_tokenizer(tokenizer: &Json) -> Result<&'static str> {
    let normalizer = tokenizer["normalizer"]["type"].as_str();
    if !matches!(normalizer, None | Some("NFC")) {
        return Err(refused(&format!("it normalises text by {}", tokenizer["normalizer"])));
    }
    let whole = &tokenizer["pre_tokenizer"];
    let steps: Vec<&Json> = match whole["type"].as_str() {
        Some("Sequence") => whole["pretokenizers"].as_array().into_iter().flatten().collect(),
        _ => vec![whole],
    };
    let byte_level = |step: &Json, regex: bool| {
        // The default is true.
        let uses = step["use_regex"].as_bool().unwrap_or(true);
        step["type"] == "ByteLevel" && step["add_prefix_space"] != true && uses == regex
    };
    let ignores = tokenizer["model"]["ignore_merges"] == true;
    let split = |step: &Json, regex: &str| {
        step["type"] == "Split" && step["pattern"] == json!({ "Regex": regex }) && step["invert"] != true
    };
    let found = match steps[..] {
        [step] if byte_level(step, true) && !ignores => Some("gpt-2"),
        [digits, step]
            if digits["type"] == "Digits"
                && digits["individual_digits"] == true
                && byte_level(step, true)
                && !ignores =>
        {
            Some("smollm")
        }
        // Both split in the same way; only llama-bpe takes a word that is a token as a whole, without merging.
        [regex, step] if split(regex, LLAMA3) && byte_level(step, false) => {
            Some(if ignores { "llama-bpe" } else { "smaug-bpe" })
        }
        [regex, step] if split(regex, QWEN2) && byte_level(step, false) && !ignores => Some("qwen2"),
        _ => None,
    };
    found.ok_or_else(|| refused("llama.cpp has no known name for the way it splits text"))
}

/// Whether SentencePiece's tokenizer adds a space at the beginning.
fn space_prefix(tokenizer: &Json) -> Result<bool> {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = &tokenizer["normalizer"];
    let prefix = if *normalizer == replace {
        Some(false)
    } else if *normalizer
        == json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]})
    {
        Some(true)
    } else {
        None
    };
    let whole = &tokenizer["pre_tokenizer"];
    // Gemma's splits at spaces, of which none is left.
    let cuts = !whole.is_null() && whole["pattern"] != json!({"String": " "});
    prefix.filter(|_| !cuts).ok_or_else(|| {
        refused("with byte_fallback its normalizer must replace spaces by ▁ and it must split text no further, as Gemma's and Llama 2's do")
    })
}

/// SentencePiece's scores: a token that is merged earlier has a higher score.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    // Tokens that no merge makes are single characters, or come last.
    let score = |token: &String| match ranks.get(token) {
        Some(rank) => -(*rank as f32),
        None if token.chars().count() > 1 => -1e9,
        None => 0.0,
    };
    tokens.iter().map(score).collect()
}

/// `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(pre_tokenizer: &Json) -> Json {
        json!({
            "pre_tokenizer": pre_tokenizer,
            "added_tokens": [{"id": 3, "content": "</s>", "special": true}, {"id": 4, "content": "<x>", "special": false}],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        })
    }

    #[test]
    fn the_cut_is_named_by_its_expression() {
        let level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
        let two = |first: Json, regex| json!({"type": "Sequence", "pretokenizers": [first, level(regex)]});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        for (pre, name) in [
            (level(true), "gpt-2"),
            (two(split(LLAMA3), false), "smaug-bpe"),
            (two(split(QWEN2), false), "qwen2"),
            (two(json!({"type": "Digits", "individual_digits": true}), true), "smollm"),
        ] {
            assert_eq!(of(&bytes(&pre), 6).unwrap().pre, name);
        }
        let mut whole_words = bytes(&two(split(LLAMA3), false));
        whole_words["model"]["ignore_merges"] = true.into();
        assert_eq!(of(&whole_words, 6).unwrap().pre, "llama-bpe");
        for pre in [level(false), two(split("x+"), false), json!({"type": "Whitespace"}), Json::Null] {
            let Err(error) = of(&bytes(&pre), 6) else { panic!("{pre} is taken") };
            assert!(error.to_string().contains("convert_hf_to_gguf.py"), "{error}");
        }
    }

    #[test]
    fn tokens_have_their_kinds_and_are_filled_up() {
        let found = of(&bytes(&json!({"type": "ByteLevel", "use_regex": true})), 6).unwrap();
        assert_eq!(found.tokens, ["a", "b", "ab", "</s>", "<x>", "[PAD5]"]);
        assert_eq!(found.kinds, [NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED, UNUSED]);
        assert_eq!((found.model, found.merges.unwrap()), ("gpt2", vec!["a b".to_string()]));
        assert!(of(&bytes(&json!({"type": "ByteLevel"})), 4).is_err(), "more tokens than rows");
    }

    #[test]
    fn sentencepiece_has_scores_by_merge() {
        let gemma = json!({
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "added_tokens": [{"id": 0, "content": "<unk>", "special": true}],
            "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
                      "vocab": {"<unk>": 0, "<0x0A>": 1, "▁": 2, "a": 3, "▁a": 4, "aa": 5}, "merges": ["a a", "▁ a"]},
        });
        let found = of(&gemma, 6).unwrap();
        assert_eq!((found.model, found.space_prefix), ("llama", Some(false)));
        assert_eq!(found.kinds, [UNKNOWN, BYTE, NORMAL, NORMAL, NORMAL, NORMAL]);
        assert_eq!(found.scores.unwrap()[2..], [0.0, 0.0, -1.0, 0.0]);
    }
}
