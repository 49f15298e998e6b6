//! What every kind of adapter takes and gives.

use std::borrow::Cow;

use candle_core::Tensor;

/// A linear module that may be adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its path as adapters name it, without `base_model.model.`.
    pub name: String,
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
}

/// What an adapter keeps of a forward pass for the backward pass.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Intermediate results, as the kind's file orders them.
    pub hidden: Vec<Tensor>,
    /// The masked input and the factors, both `[T, in]`, under dropout.
    pub dropped: Option<(Tensor, Tensor)>,
}

/// What merging adds to a weight `[out, in]`: `B·A`.
#[derive(Clone, Debug)]
pub struct Delta<'a> {
    /// `A [r, in]`.
    pub a: &'a [f32],
    /// `B [out, r]`, with all factors.
    pub b: Cow<'a, [f32]>,
    /// r.
    pub rank: usize,
}

/// What every kind says of an adapter in PEFT's `adapter_config.json`.
#[derive(Clone, Debug)]
pub struct PeftCommon<'a> {
    /// `base_model_name_or_path`.
    pub base: &'a str,
    /// Dropout of the adapter's input.
    pub dropout: f64,
    /// What selects the adapted modules among those of the base.
    pub target_modules: Vec<String>,
    /// Whether weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}
