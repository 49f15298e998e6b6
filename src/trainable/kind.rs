//! Types shared by all kinds of adapters.

use std::borrow::Cow;

use crate::ops::Tensor;

/// A linear module that can be adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Path in the adapter file, without `base_model.model.`.
    pub name: String,
    /// Input features.
    pub inputs: usize,
    /// Output features.
    pub outputs: usize,
}

/// The numbers of a set of adapters.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// All values of the set.
    pub values: &'a [f32],
    /// Their version number.
    pub version: u64,
}

/// What an adapter saves in the forward pass for the backward pass.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Intermediate results, in the order defined by the kind's file.
    pub hidden: Vec<Tensor>,
    /// With dropout, the masked input and the factors, both `[T, in]`.
    pub dropped: Option<(Tensor, Tensor)>,
}

/// The change `B·A`, plus each row of the weight times a factor, that merging adds to a weight `[out, in]`.
#[derive(Clone, Debug)]
pub struct Delta<'a> {
    /// `A [r, in]`.
    pub a: &'a [f32],
    /// `B [out, r]`, with all factors applied.
    pub b: Cow<'a, [f32]>,
    /// Rank r.
    pub rank: usize,
    /// The factors of the weight's rows `[out]`, if any.
    pub rows: Option<Vec<f32>>,
}

/// Settings common to all kinds in PEFT's `adapter_config.json`.
#[derive(Clone, Debug)]
pub struct PeftCommon<'a> {
    /// `base_model_name_or_path`.
    pub base: &'a str,
    /// Dropout of the adapter's input.
    pub dropout: f64,
    /// Selects the adapted modules among those of the base.
    pub target_modules: Vec<String>,
    /// Whether weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}
