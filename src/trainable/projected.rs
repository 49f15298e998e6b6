//! The paper's network in front of a prefix (Li and Liang 2021, arXiv 2101.00190; PEFT's `prefix_projection`). Of the virtual
//! tokens' embeddings E `[tokens, n]` a network that all layers share makes `a = tanh(E·Uᵀ + u) [tokens, h]`, and each layer
//! its keys and values, `[K, V] = a·Wᵀ + w [tokens, 2·width]`.
//!
//! The shared part is the adapter of [`ENCODER`], which is no module of the base; the part of a layer is that of its
//! attention module. A file holds keys and values, as PEFT writes them ([`super::Adapters::shared`]), and a checkpoint also these
//! numbers, with which a resumed run goes on.

use std::ops::Range;

use super::bottleneck::{add, by_column, by_row, product, sums};
use super::prefix::normal;
use super::store::Shape;
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::gemm::Operand;
use crate::ops::host;
use crate::random::Stream;
use crate::weights::Elements;

/// The path of the shared part.
pub const ENCODER: &str = "prompt_encoder";

/// The part of the network that all layers share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixEncoder {
    /// The number of virtual tokens.
    pub tokens: usize,
    /// Features of a token's embedding.
    pub inputs: usize,
    /// Features between the two linear maps.
    pub hidden: usize,
    /// Start in the flat buffer.
    pub(super) offset: usize,
}

impl PrefixEncoder {
    /// Creates the shared part.
    pub fn new(tokens: usize, inputs: usize, hidden: usize) -> Self {
        Self { tokens, inputs, hidden, offset: 0 }
    }

    /// The ranges of E, U and u in the flat buffer.
    fn ranges(&self) -> [Range<usize>; 3] {
        let (first, second) = (
            self.offset + self.tokens * self.inputs,
            self.offset + (self.tokens + self.hidden) * self.inputs,
        );
        [self.offset..first, first..second, second..second + self.hidden]
    }

    pub(super) fn identity(&self) -> String {
        format!("prefix encoder {} {} {};", self.tokens, self.inputs, self.hidden)
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        vec![
            ("embedding.weight", vec![self.tokens, self.inputs]),
            ("transform.0.weight", vec![self.hidden, self.inputs]),
            ("transform.0.bias", vec![self.hidden]),
        ]
    }

    /// Draws the embeddings from the standard normal distribution, and the linear map as torch does.
    pub(super) fn initialise(&self, seed: u64, values: &mut [f32]) {
        let [embedding, weight, bias] = self.ranges();
        let stream = Stream::new(seed, "prefix encoder embedding");
        for (i, value) in values[embedding].iter_mut().enumerate() {
            *value = normal(stream, i as u64);
        }
        uniform(&mut values[weight.start..bias.end], Stream::new(seed, "prefix encoder"), self.inputs);
    }

    /// Returns `a [tokens, h]`.
    ///
    /// # Errors
    /// If the numbers are not those of its set.
    pub fn activation(&self, values: &[f32]) -> Result<Tensor> {
        let [embedding, weight, bias] = self.ranges().map(|range| &values[range]);
        let of = Operand::by_row(Elements::F32(embedding), self.tokens, self.inputs);
        let mut a = product(of, Operand::by_row(Elements::F32(weight), self.hidden, self.inputs));
        host::update_rows(&mut a, self.hidden, |_, row| {
            add(row, bias);
            row.iter_mut().for_each(|x| *x = f64::from(*x).tanh() as f32);
        });
        Tensor::new(a, (self.tokens, self.hidden))
    }

    /// Adds the gradients, from that of `a [tokens, h]`.
    fn backward(&self, values: &[f32], a: &Tensor, da: &Tensor, gradients: &mut [f32]) -> Result<()> {
        let ranges = self.ranges();
        let [embedding, weight, _] = ranges.clone().map(|range| &values[range]);
        let slope = |(d, a): (&f32, &f32)| d * (1.0 - a * a);
        let before = da.numbers().iter().zip(a.numbers()).map(slope).collect();
        let before = Tensor::new(before, (self.tokens, self.hidden))?;
        let of = Tensor::new(embedding.to_vec(), (self.tokens, self.inputs))?;
        let parts = [
            product(by_row(&before), Operand::by_column(Elements::F32(weight), self.hidden, self.inputs)),
            product(by_column(&before), by_column(&of)),
            sums(&before),
        ];
        for (range, part) in ranges.into_iter().zip(parts) {
            add(&mut gradients[range], &part);
        }
        Ok(())
    }
}

/// The part of the network of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectedPrefix {
    /// The attention module's path.
    pub module: String,
    /// The number of virtual tokens.
    pub tokens: usize,
    /// Features of a token's key: `n_kv_head·head_dim`.
    pub width: usize,
    /// Features of the shared part.
    pub hidden: usize,
    /// Start in the flat buffer.
    pub(super) offset: usize,
}

impl ProjectedPrefix {
    /// Creates the part of a layer.
    pub fn new(module: String, tokens: usize, width: usize, hidden: usize) -> Self {
        Self { module, tokens, width, hidden, offset: 0 }
    }

    /// The ranges of W and w in the flat buffer.
    pub(super) fn ranges(&self) -> [Range<usize>; 2] {
        let middle = self.offset + 2 * self.width * self.hidden;
        [self.offset..middle, middle..middle + 2 * self.width]
    }

    pub(super) fn identity(&self) -> String {
        format!("projected prefix {} {} {};", self.module, self.tokens, self.hidden)
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        let outputs = 2 * self.width;
        vec![("transform.2.weight", vec![outputs, self.hidden]), ("transform.2.bias", vec![outputs])]
    }

    /// Draws the linear map as torch does.
    pub(super) fn initialise(&self, seed: u64, values: &mut [f32]) {
        let [weight, bias] = self.ranges();
        let stream = Stream::new(seed, &format!("projected prefix {}", self.module));
        uniform(&mut values[weight.start..bias.end], stream, self.hidden);
    }

    /// Returns the keys and the values, `[tokens, width]` each, from `a [tokens, h]`.
    pub fn rows(&self, values: &[f32], a: &Tensor) -> [Vec<f32>; 2] {
        let outputs = 2 * self.width;
        let [weight, bias] = self.ranges().map(|range| &values[range]);
        let mut both = product(by_row(a), Operand::by_row(Elements::F32(weight), outputs, self.hidden));
        host::update_rows(&mut both, outputs, |_, row| add(row, bias));
        let part = |start: usize| {
            both.chunks_exact(outputs.max(1))
                .flat_map(|row| &row[start..start + self.width])
                .copied()
                .collect()
        };
        [part(0), part(self.width)]
    }

    /// Adds the gradients of both parts, from those of keys and values `[tokens, width]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn backward(
        &self,
        encoder: &PrefixEncoder,
        values: &[f32],
        [dk, dv]: [&[f32]; 2],
        gradients: &mut [f32],
    ) -> Result<()> {
        let (outputs, width) = (2 * self.width, self.width.max(1));
        let rows = dk.chunks_exact(width).zip(dv.chunks_exact(width));
        let both: Vec<f32> = rows.flat_map(|(k, v)| k.iter().chain(v)).copied().collect();
        let both = Tensor::new(both, (self.tokens, outputs))?;
        let a = encoder.activation(values)?;
        let [weight, bias] = self.ranges();
        add(&mut gradients[weight.clone()], &product(by_column(&both), by_column(&a)));
        add(&mut gradients[bias], &sums(&both));
        let weight = Operand::by_column(Elements::F32(&values[weight]), outputs, self.hidden);
        let da = Tensor::new(product(by_row(&both), weight), (self.tokens, self.hidden))?;
        encoder.backward(values, &a, &da, gradients)
    }
}

/// Draws numbers uniformly in ±1/√inputs.
fn uniform(values: &mut [f32], stream: Stream, inputs: usize) {
    let bound = 1.0 / (inputs.max(1) as f32).sqrt();
    for (i, value) in values.iter_mut().enumerate() {
        *value = (2.0 * stream.uniform(i as u64) - 1.0) * bound;
    }
}
