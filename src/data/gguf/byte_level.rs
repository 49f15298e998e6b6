//! `tokenizer.ggml.model` gpt2: byte-level BPE.

use serde_json::{Map, Value, json};

use super::vocabulary::{Built, Vocabulary, ids, listed_merges};
use crate::error::{Error, Result};

/// How text is split before merges are applied.
enum Split {
    /// GPT-2's regular expression, which is built into the `ByteLevel` pre-tokenizer.
    Gpt2,
    /// Splits digits one by one, then splits like GPT-2.
    Digits,
    /// Splits by regular expressions, one after the other.
    Regexes(&'static [&'static str]),
}

/// The settings that a value of `tokenizer.ggml.pre` implies.
struct Pre {
    names: &'static [&'static str],
    split: Split,
    /// Whether text is first normalized to Unicode NFC.
    composes: bool,
    /// Whether a word that is itself a token skips the merges.
    ignores_merges: bool,
    /// Whether BOS is added if the file does not specify it.
    adds_bos: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// llama.cpp's own: punctuation apart, then GPT-2's expression, then numbers by threes of their digits.
const DEFAULT: &[&str] = &[
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{N}+",
    "[0-9][0-9][0-9]",
];

const PLAIN: Pre =
    Pre { names: &[], split: Split::Gpt2, composes: false, ignores_merges: false, adds_bos: false };

const KNOWN: &[Pre] = &[
    Pre { names: &["default"], split: Split::Regexes(DEFAULT), ..PLAIN },
    Pre { names: &["gpt-2", "phi-2", "olmo", "mpt", "exaone4", "trillion", "granite-docling"], ..PLAIN },
    Pre {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        split: Split::Digits,
        ..PLAIN
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        split: Split::Regexes(&[LLAMA3]),
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Pre { names: &["dbrx", "smaug-bpe"], split: Split::Regexes(&[LLAMA3]), ..PLAIN },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "kormo"],
        split: Split::Regexes(&[QWEN2]),
        composes: true,
        ..PLAIN
    },
    Pre {
        names: &["tekken"],
        split: Split::Regexes(&[TEKKEN]),
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Pre { names: &["gpt-4o", "llama4"], split: Split::Regexes(&[GPT4O]), ..PLAIN },
];

pub(super) fn build(vocabulary: &Vocabulary) -> Result<Built> {
    let name = vocabulary.metadata.text("tokenizer.ggml.pre")?.filter(|name| !name.is_empty());
    // llama.cpp takes its default and warns of worse output: no model was trained with that.
    let name = name.ok_or_else(|| {
        Error::Data(
            "tokenizer.ggml.pre is missing, so the file does not say how its text is split; convert the model again, or \
             name it with gguf-py's `gguf-new-metadata --pre-tokenizer NAME` (llama-bpe for Llama 3, qwen2 for Qwen)"
                .into(),
        )
    })?;
    let Some(pre) = KNOWN.iter().find(|pre| pre.names.contains(&name)) else {
        let known: Vec<&str> = KNOWN.iter().flat_map(|pre| pre.names).copied().collect();
        return Err(Error::Data(format!(
            "the pre-tokenizer {name:?} (tokenizer.ggml.pre) is not supported; known: {}",
            known.join(", ")
        )));
    };
    let spelled: Vec<String> = vocabulary.tokens.iter().map(|token| token.to_string()).collect();
    let ids = ids(&spelled);
    let merges = listed_merges(vocabulary.metadata, &ids)?
        .ok_or_else(|| Error::Data("tokenizer.ggml.merges is missing; convert the model again".into()))?;
    let mut parts = Map::new();
    parts.insert("normalizer".into(), if pre.composes { json!({"type": "NFC"}) } else { Value::Null });
    parts.insert("pre_tokenizer".into(), pre_tokenizer(&pre.split));
    parts.insert("decoder".into(), byte_level(false));
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                       "ignore_merges": pre.ignores_merges, "vocab": ids, "merges": merges});
    parts.insert("model".into(), model);
    Ok(Built { parts, spelled, adds_bos: pre.adds_bos })
}

fn byte_level(splits: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits})
}

fn pre_tokenizer(split: &Split) -> Value {
    let mut steps = match split {
        Split::Gpt2 => return byte_level(true),
        Split::Digits => vec![json!({"type": "Digits", "individual_digits": true})],
        Split::Regexes(regexes) => {
            let mut steps = Vec::new();
            for regex in *regexes {
                steps.push(json!({"type": "Split", "pattern": {"Regex": regex},
                                  "behavior": "Isolated", "invert": false}));
            }
            steps
        }
    };
    steps.push(byte_level(matches!(split, Split::Digits)));
    json!({"type": "Sequence", "pretokenizers": steps})
}
