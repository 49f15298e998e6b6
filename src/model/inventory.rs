//! Which tensors a decoder reads, and what else its checkpoint holds. A checkpoint with unread tensors is rejected with
//! their names: they are most often part of another architecture.

use super::spec::{DecoderSpec, LinearSpec, NormSpec};
use crate::error::{Error, Result};
use crate::weights::WeightSource;

/// Tensors that need not be read, by the end of their name, with the reason.
const HARMLESS: &[(&str, &str)] = &[
    (".rotary_emb.inv_freq", "rotary frequencies, which follow from config.json"),
    (".rotary_emb.cos_cached", "a table of rotary cosines"),
    (".rotary_emb.sin_cached", "a table of rotary sines"),
    (".attn.masked_bias", "a constant of the causal mask"),
    (".attention.masked_bias", "a constant of the causal mask"),
];

/// Buffers that hold the causal mask, `[1, 1, n, n]`. Other models use the same names for a bias.
const MASKS: &[&str] = &[".attn.bias", ".attention.bias"];

/// The maximum number of tensors named in a message.
const MOST_TOLD: usize = 8;

/// The tensors that a decoder reads, by their names in transformers' model.
pub fn tensors(spec: &DecoderSpec) -> Vec<String> {
    let mut all = vec![format!("{}.weight", spec.embedding)];
    all.extend(spec.positions.iter().map(|positions| format!("{}.weight", positions.module)));
    let mut linear = |linear: &LinearSpec| {
        all.push(format!("{}.weight", linear.module));
        all.extend(linear.bias.then(|| format!("{}.bias", linear.module)));
    };
    spec.linears().chain(&spec.head).for_each(&mut linear);
    let mut norm = |norm: &NormSpec| {
        let (gain, bias) = norm.kind.stored();
        all.extend(gain.then(|| format!("{}.weight", norm.module)));
        all.extend(bias.then(|| format!("{}.bias", norm.module)));
    };
    for layer in &spec.layers {
        let around =
            [&layer.attention_norm, &layer.post_attention_norm, &layer.mlp_norm, &layer.post_mlp_norm];
        around.into_iter().flatten().for_each(&mut norm);
        layer.attention.qk_norm.iter().for_each(|(q, k)| [q, k].into_iter().for_each(&mut norm));
    }
    norm(&spec.final_norm);
    all
}

/// The name in the file of the tensor that holds the embedding. A model that shares it with its head may store only the
/// head.
pub fn embedding(spec: &DecoderSpec, source: &dyn WeightSource) -> String {
    let name = format!("{}.weight", spec.embedding);
    let head = format!("{}.weight", spec.head_module);
    let is_there = |name: &str| source.shape(&stored(spec, source, name)).is_some();
    if spec.head.is_none() && !is_there(&name) && is_there(&head) { head } else { name }
}

fn stored(spec: &DecoderSpec, source: &dyn WeightSource, name: &str) -> String {
    spec.stored_name(name, |name| source.shape(name).is_some())
}

/// The tensors of the checkpoint that no part of the model reads, by their names in the file, sorted.
///
/// # Errors
/// If a tensor cannot be read.
pub fn strangers(spec: &DecoderSpec, source: &dyn WeightSource) -> Result<Vec<String>> {
    let mut known: Vec<String> = tensors(spec).iter().map(|name| stored(spec, source, name)).collect();
    known.push(stored(spec, source, &embedding(spec, source)));
    if spec.head.is_none() && differing_head(spec, source)?.is_none() {
        known.push(stored(spec, source, &format!("{}.weight", spec.head_module)));
    }
    known.extend(spec.ignored.iter().cloned());
    known.sort_unstable();
    let is_known = |name: &String| known.binary_search(name).is_ok();
    let is_mask = |name: &String| {
        let square = source.shape(name).is_some_and(|shape| shape.len() == 4 && shape[2] == shape[3]);
        square && MASKS.iter().any(|end| name.ends_with(end))
    };
    let harmless = |name: &String| HARMLESS.iter().any(|(end, _)| name.ends_with(end)) || is_mask(name);
    let elsewhere = |name: &String| spec.elsewhere.iter().any(|prefix| name.starts_with(prefix));
    let mut names = source.names();
    names.retain(|name| !is_known(name) && !harmless(name) && !elsewhere(name));
    names.sort_unstable();
    Ok(names)
}

/// Returns the head that a checkpoint stores in addition to an embedding declared as shared with it, if their values
/// differ.
///
/// # Errors
/// If a tensor cannot be read.
pub fn differing_head(spec: &DecoderSpec, source: &dyn WeightSource) -> Result<Option<String>> {
    let head = stored(spec, source, &format!("{}.weight", spec.head_module));
    let embedding = stored(spec, source, &format!("{}.weight", spec.embedding));
    if source.shape(&head).is_none() || source.shape(&embedding).is_none() {
        return Ok(None);
    }
    let (a, b) = (source.stored(&head)?, source.stored(&embedding)?);
    Ok((a != b).then_some(head))
}

/// Adapts the spec to its checkpoint. If a head is tied to the embedding only by the default of its class, and the
/// checkpoint stores a head that differs, the model has its own head, as in transformers 5.
///
/// # Errors
/// If a tensor cannot be read.
pub fn settled(spec: DecoderSpec, source: &dyn WeightSource) -> Result<DecoderSpec> {
    let own = spec.head.is_none() && !spec.tie_is_stated && differing_head(&spec, source)?.is_some();
    Ok(if own { DecoderSpec { head: Some(spec.head_linear()), ..spec } } else { spec })
}

/// Rejects a checkpoint with tensors that no part of the model reads.
///
/// # Errors
/// If it holds such tensors that [`DecoderSpec::ignored`] does not name; the error names them.
pub fn check(spec: &DecoderSpec, source: &dyn WeightSource) -> Result<()> {
    let strangers = strangers(spec, source)?;
    if strangers.is_empty() {
        return Ok(());
    }
    if let Some(head) = differing_head(spec, source)?.filter(|_| spec.head.is_none()) {
        return Err(Error::Model(format!(
            "config.json of {} says that the head shares the embedding's weight (tie_word_embeddings: true), but {head} is \
             stored and differs from it; set tie_word_embeddings to false in config.json to compute with the stored head, as \
             transformers 5 and llama.cpp do, or remove that tensor to share the embedding's weight, as transformers 4 does",
            source.describe()
        )));
    }
    Err(Error::Model(format!("{}: {}", source.describe(), unread(&strangers, &spec.model_type))))
}

/// The message about tensors that no part of the model reads.
pub fn unread(strangers: &[String], model_type: &str) -> String {
    let more = strangers.len().saturating_sub(MOST_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "no part of a {model_type} model reads {}{more}; does config.json belong to these weights? Insist with --force to \
         compute without",
        strangers[..strangers.len().min(MOST_TOLD)].join(", ")
    )
}
