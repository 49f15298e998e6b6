//! Tokens that llama.cpp knows by their text (`llama_vocab::impl::load` in `src/llama-vocab.cpp`): those that end a
//! completion, and those whose type in the file it corrects.

use std::collections::BTreeSet;

use super::kinds::{CONTROL, NORMAL, USER_DEFINED};
use crate::error::Result;
use crate::weights::gguf::Metadata;

/// Tokens that end a completion. Those that llama.cpp takes for the end of a turn or of a message are among them.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// A role in filling in the middle of a text.
struct Middle {
    /// The metadata names of the token's id.
    names: &'static [&'static str],
    /// The texts of the token, if the file gives no id.
    texts: &'static [&'static str],
    /// Whether it ends a completion.
    ends: bool,
}

const MIDDLES: &[Middle] = &[
    Middle {
        names: &["fim_pre", "prefix"],
        texts: &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        ends: false,
    },
    Middle {
        names: &["fim_suf", "suffix"],
        texts: &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        ends: false,
    },
    Middle {
        names: &["fim_mid", "middle"],
        texts: &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        ends: false,
    },
    Middle {
        names: &["fim_pad"],
        texts: &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
        ends: true,
    },
    Middle {
        names: &["fim_rep"],
        texts: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        ends: true,
    },
    Middle { names: &["fim_sep"], texts: &["<|file_sep|>"], ends: true },
];

/// Tokens of gpt-oss that are text to be shown, whatever their type in the file.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Returns the id of a special token by its metadata name.
pub(super) fn named(metadata: Metadata, name: &str) -> Result<Option<u64>> {
    metadata.integer(&format!("tokenizer.ggml.{name}_token_id"))
}

/// Corrects the types of tokens, and returns the ids of those that end a completion, apart from EOS.
///
/// # Errors
/// Fails if an id is not a number.
pub(super) fn recognise(metadata: Metadata, tokens: &[&str], kinds: &mut [f64]) -> Result<BTreeSet<usize>> {
    let known = |name: &str| -> Result<Option<usize>> {
        let id = named(metadata, name)?.and_then(|id| usize::try_from(id).ok());
        Ok(id.filter(|id| *id < tokens.len()))
    };
    let mut ends = BTreeSet::new();
    for middle in MIDDLES {
        let mut given = None;
        for &name in middle.names {
            given = given.or(known(name)?);
        }
        let by_text = || tokens.iter().position(|token| middle.texts.contains(token));
        let Some(id) = given.or_else(by_text) else { continue };
        if given.is_none() {
            kinds[id] = CONTROL;
        }
        ends.extend(middle.ends.then_some(id));
    }
    for (id, token) in tokens.iter().enumerate() {
        if ENDS.contains(token) {
            kinds[id] = CONTROL;
            ends.insert(id);
        } else if SHOWN.contains(token) {
            kinds[id] = USER_DEFINED;
        }
    }
    ends.extend(known("eot")?.into_iter().chain(known("eom")?));
    Ok(ends)
}

/// The exceptions: `<|end|>` ends a message, but no completion, where other tokens do that (gpt-oss, Solar Open), and
/// `</s>` is text beside Gemma 4's tokens.
pub(super) fn except(tokens: &[&str], kinds: &mut [f64], ends: &mut BTreeSet<usize>) {
    let find = |ends: &BTreeSet<usize>, text: &str| ends.iter().copied().find(|id| tokens[*id] == text);
    let has = |text: &str| find(ends, text).is_some();
    let calls = has("<|call|>") || has("<|calls|>");
    let others = calls && (has("<|return|>") || has("<|flush|>"));
    let end = find(ends, "<|end|>").filter(|_| others);
    let text = find(ends, "</s>").filter(|_| has("<|tool_response>"));
    for (id, kind) in end.map(|id| (id, USER_DEFINED)).into_iter().chain(text.map(|id| (id, NORMAL))) {
        ends.remove(&id);
        kinds[id] = kind;
    }
}
