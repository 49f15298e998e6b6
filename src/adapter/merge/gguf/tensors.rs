//! The tensors of a merged GGUF model: llama.cpp's names (`gguf/tensor_mapping.py`) by the function of each.

use std::collections::BTreeMap;

use super::super::super::gguf::{Architecture, GgufType, Place, places};
use super::super::super::gguf_writer::Planned;
use super::super::super::{head, names};
use super::super::Base;
use super::super::plan::Target;
use super::mix::{FileType, Mix};
use super::rotary::Rope;
use crate::error::{Error, Problems, Result};
use crate::model::spec::{LinearSpec, NormKind, NormSpec};

/// A tensor to be written, and the source of its numbers.
#[derive(Debug)]
pub(super) struct Made {
    pub planned: Planned,
    /// The base's tensor.
    pub source: Option<String>,
    /// The numbers, if they do not come from a tensor.
    pub numbers: Vec<f32>,
    /// Name among the adapted tensors.
    pub target: Option<String>,
    /// Rows of a head, if they are reordered.
    pub head: Option<usize>,
    pub columns: Option<usize>,
    pub plus: f32,
}

/// Plans all tensors.
///
/// # Errors
/// If the base lacks a tensor, or has one that has no place in the file.
pub(super) fn plan(
    base: &Base,
    architecture: &Architecture,
    rope: &Rope,
    targets: &BTreeMap<String, Target>,
    kind: FileType,
) -> Result<Vec<Made>> {
    let of_head = head::linear(base.spec);
    let head_name = format!("{}.weight", of_head.module);
    // The embedding also computes the logits, unless the head has its own weight.
    let tied = base.spec.head.is_none() && !targets.contains_key(&head_name);
    let mut all = Planner { base, targets, mix: Mix::new(kind, base.spec), tied, made: Vec::new() };
    let embedding = names::weight_of(&base.spec.embedding, base.source, base.spec);
    all.matrix("token_embd.weight".into(), embedding.clone(), None, None)?;
    let known = places(base.spec, architecture);
    for linear in base.spec.linears() {
        let Some((_, place)) = known.get(linear.module.as_str()) else {
            return Err(Error::Adapter(format!("{} has no place in a GGUF model", linear.module)));
        };
        all.linear(linear, place)?;
    }
    for (i, layer) in base.spec.layers.iter().enumerate() {
        let qk = layer.attention.qk_norm.as_ref();
        for (norm, name) in [
            (layer.attention_norm.as_ref(), "attn_norm"),
            (layer.post_attention_norm.as_ref(), "post_attention_norm"),
            (layer.mlp_norm.as_ref(), "ffn_norm"),
            (layer.post_mlp_norm.as_ref(), "post_ffw_norm"),
            (qk.map(|(q, _)| q), "attn_q_norm"),
            (qk.map(|(_, k)| k), "attn_k_norm"),
        ] {
            norm.map_or(Ok(()), |norm| all.norm(norm, format!("blk.{i}.{name}.weight")))?;
        }
    }
    all.norm(&base.spec.final_norm, "output_norm.weight".into())?;
    match &base.spec.head {
        Some(head) => all.linear(head, &Place { tensor: "output".into(), heads: None })?,
        None if targets.contains_key(&head_name) => {
            all.matrix("output.weight".into(), embedding, Some(head_name.clone()), None)?;
        }
        None => {}
    }
    if let Some(factors) = rope.factors(&base.spec.rotations) {
        let planned =
            Planned { name: "rope_freqs.weight".into(), shape: vec![factors.len()], kind: GgufType::F32 };
        let (source, target, head, columns) = (None, None, None, None);
        all.made.push(Made { planned, source, numbers: factors, target, head, columns, plus: 0.0 });
    }
    all.nothing_is_left(&head_name)?;
    Ok(all.made)
}

struct Planner<'a> {
    base: &'a Base<'a>,
    targets: &'a BTreeMap<String, Target<'a>>,
    mix: Mix,
    tied: bool,
    made: Vec<Made>,
}

impl Planner<'_> {
    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.base
            .source
            .shape(name)
            .ok_or_else(|| Error::Weights(format!("{} has no tensor {name}", self.base.source.describe())))
    }

    fn matrix(
        &mut self,
        name: String,
        source: String,
        target: Option<String>,
        head: Option<usize>,
    ) -> Result<()> {
        let shape = self.shape(&source)?;
        let makes_logits = name == "output.weight" || self.tied && name == "token_embd.weight";
        let kind = self.mix.of(&name, makes_logits, shape.last().copied().unwrap_or(1));
        let target = target.or_else(|| self.targets.contains_key(&source).then(|| source.clone()));
        let planned = Planned { name, shape, kind };
        let (numbers, columns) = (Vec::new(), None);
        self.made.push(Made { planned, source: Some(source), numbers, target, head, columns, plus: 0.0 });
        Ok(())
    }

    fn linear(&mut self, linear: &LinearSpec, place: &Place) -> Result<()> {
        let head = place.heads.map(|heads| linear.outputs / heads.max(1));
        let weight = names::weight_of(&linear.module, self.base.source, self.base.spec);
        self.matrix(format!("{}.weight", place.tensor), weight.clone(), None, head)?;
        if linear.bias {
            let bias = format!("{}.bias", weight.trim_end_matches(".weight"));
            self.vector(format!("{}.bias", place.tensor), bias, head, 0.0)?;
        }
        Ok(())
    }

    fn norm(&mut self, norm: &NormSpec, name: String) -> Result<()> {
        let weight = names::weight_of(&norm.module, self.base.source, self.base.spec);
        let plus = match norm.kind {
            NormKind::Rms => 0.0,
            NormKind::RmsPlusOne => 1.0,
            NormKind::Layer | NormKind::LayerWithoutBias | NormKind::LayerPlusOne | NormKind::LayerPlain => {
                return Err(Error::Adapter(format!(
                    "{} is a layer norm, which llama.cpp does not have here",
                    norm.module
                )));
            }
        };
        self.vector(name, weight, None, plus)
    }

    fn vector(&mut self, name: String, source: String, head: Option<usize>, plus: f32) -> Result<()> {
        let planned = Planned { name, shape: self.shape(&source)?, kind: GgufType::F32 };
        let columns = head.map(|_| 1);
        self.made.push(Made {
            planned,
            source: Some(source),
            numbers: Vec::new(),
            target: None,
            head,
            columns,
            plus,
        });
        Ok(())
    }

    /// A tensor without a place would be lost silently.
    fn nothing_is_left(&self, head: &str) -> Result<()> {
        let mut problems = Problems::default();
        for name in self.base.source.names() {
            let used = self.made.iter().any(|made| made.source.as_deref() == Some(&name));
            // Frequencies follow from the configuration; a tied head repeats the embedding.
            let needless = name.ends_with("rotary_emb.inv_freq") || name == head;
            problems.require(used || needless, || {
                format!("tensor {name} has no place in a GGUF model of this family")
            });
        }
        problems.finish().map_err(|e| Error::Adapter(e.to_string()))
    }
}
