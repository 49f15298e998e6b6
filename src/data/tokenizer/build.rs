//! Builds a tokenizer from files, as `AutoTokenizer.from_pretrained` of transformers 5.24 does.

use serde_json::{Map, Value as Json};
use tokenizers::models::ModelWrapper;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::class::Class;
use super::files::{Files, Vocabulary};
use super::library::{from_bytes, guarded, parse};
use super::named::{Pieces, Tokens};
use super::rebuild::{self, Parts};
use super::{sentencepiece, tekken};
use crate::error::{Error, Result};

/// Returns the tokenizer and its special tokens.
///
/// # Errors
/// Fails if the files are inconsistent, the class is not supported, or the tokenizer uses dropout.
pub(super) fn build(files: &Files) -> Result<(Tokenizer, Tokens)> {
    let class = Class::choose(files.declared())?;
    let (mut tokenizer, tokens) = match &files.vocabulary {
        Vocabulary::Tokenizer(bytes) => {
            let tokens = Tokens::collect(class, files, Pieces::default())?;
            (of_file(bytes, class, &tokens, &files.config)?, tokens)
        }
        Vocabulary::Merges { vocab, merges } => {
            if class == Class::Backend {
                return Err(Error::Data(
                    "vocab.json and merges.txt do not say how text is split, and the tokenizer's class does not either; save \
                     a tokenizer.json, or name the class in tokenizer_config.json (tokenizer_class: GPT2Tokenizer)"
                        .into(),
                ));
            }
            let tokens = Tokens::collect(class, files, Pieces::default())?;
            let parts = Parts {
                vocab: vocab.clone().into(),
                merges: serde_json::json!(merges),
                post_processor: Json::Null,
            };
            (parse(&rebuild::build(class, parts, &tokens, &files.config))?, tokens)
        }
        Vocabulary::SentencePiece(bytes) => sentencepiece::build(bytes, class, files)?,
        Vocabulary::Tekken(json) => {
            let tokens = Tokens::collect(class, files, Pieces::default())?;
            (parse(&tekken::convert(json)?)?, tokens)
        }
    };
    refuse_dropout(&tokenizer)?;
    settle(&mut tokenizer)?;
    add(&mut tokenizer, &tokens)?;
    obey_flags(&mut tokenizer, class, &tokens)?;
    if files.config.get("split_special_tokens") == Some(&Json::Bool(true)) {
        tokenizer.set_encode_special_tokens(true);
    }
    Ok((tokenizer, tokens))
}

/// Builds a tokenizer from `tokenizer.json`, either unchanged or rebuilt around its vocabulary.
fn of_file(bytes: &[u8], class: Class, tokens: &Tokens, config: &Map<String, Json>) -> Result<Tokenizer> {
    if class == Class::Backend {
        return from_bytes(bytes);
    }
    let mut file: Map<String, Json> = serde_json::from_slice(bytes).map_err(|e| {
        Error::Data(format!("tokenizer.json is not a tokenizer of the `tokenizers` library: {e}"))
    })?;
    let kind = file.get("model").and_then(|model| model.get("type")).and_then(Json::as_str);
    // For such a model transformers 5.24 builds a BPE without merges, which encodes nothing.
    if let Some(kind) = kind.filter(|kind| *kind != "BPE") {
        log::warn!(
            "tokenizer.json has a {kind} model and is used as it is; transformers takes the tokenizer's class to be \
             {class:?}, which needs BPE"
        );
        return from_bytes(bytes);
    }
    let parts = Parts::of_file(&mut file, class)?;
    parse(&rebuild::build(class, parts, tokens, config))
}

/// Rejects dropout, with which the same text gives different tokens each time.
fn refuse_dropout(tokenizer: &Tokenizer) -> Result<()> {
    match tokenizer.get_model() {
        ModelWrapper::BPE(bpe) => match bpe.dropout {
            Some(dropout) if dropout > 0.0 => Err(Error::Data(format!(
                "its model has a dropout of {dropout}, so a text would get different tokens each time; set model.dropout to \
                 null"
            ))),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Removes the truncation and padding saved in the file; transformers resets them before it encodes.
fn settle(tokenizer: &mut Tokenizer) -> Result<()> {
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|e| Error::Data(format!("truncation cannot be switched off: {e}")))?;
    Ok(())
}

fn add(tokenizer: &mut Tokenizer, tokens: &Tokens) -> Result<()> {
    let present: Vec<String> = tokenizer.get_added_vocabulary().get_vocab().keys().cloned().collect();
    let new: Vec<AddedToken> = tokens.to_add(&present);
    guarded(|| tokenizer.add_tokens(new))
        .map(drop)
        .map_err(|e| Error::Data(format!("special tokens cannot be added: {e}")))
}

/// `update_post_processor`: adds BOS and EOS according to the flags, if the class or the files let the flags decide.
fn obey_flags(tokenizer: &mut Tokenizer, class: Class, tokens: &Tokens) -> Result<()> {
    let explicit = tokens.add_bos.is_some() || tokens.add_eos.is_some();
    if !explicit && class != Class::GptNeoX {
        return Ok(());
    }
    let named = tokens.by_name();
    let [bos, eos] = [("bos_token", tokens.add_bos), ("eos_token", tokens.add_eos)].map(|(name, flag)| {
        let token = named.get(name).filter(|_| flag == Some(true))?;
        Some((token.clone(), tokenizer.token_to_id(token)?))
    });
    let wrong = |e: &dyn std::fmt::Display| {
        Error::Data(format!("add_bos_token / add_eos_token cannot be applied: {e}"))
    };
    // Passed as a list of pieces because a token may contain spaces or colons.
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
