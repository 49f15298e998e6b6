//! Adapter layers (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck with a residual connection behind a module's output,
//! `y = h + U·act(D·h + b_D) + b_U`, where `h` is what the module gives. As in the paper, one stands behind the projection
//! that ends attention, and one behind the projection that ends the MLP, before the sum with the residual stream (and
//! before the norm of the branch, if there is one).
//!
//! U starts at zero, so that nothing changes at first; D is drawn as LoRA's A. With dropout, D reads `h` with some
//! features dropped.

use std::ops::Range;

use super::dropout::Dropout;
use super::kind::{Kept, Module};
use super::store::Shape;
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::gated_act::{self, Activation};
use crate::ops::gemm::{Operand, Precision, gemm};
use crate::ops::host;
use crate::random::Stream;
use crate::weights::Elements;

/// Names behind the module's path: `D [size, features]`, `b_D [size]`, `U [features, size]` and `b_U [features]`.
pub const NAMES: [&str; 4] =
    ["adapter_down.weight", "adapter_down.bias", "adapter_up.weight", "adapter_up.bias"];

/// The bottleneck behind one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    /// The path of the linear module whose output it changes.
    pub module: String,
    /// Features of that output.
    pub features: usize,
    /// Features of the bottleneck.
    pub size: usize,
    /// The nonlinearity.
    pub act: Activation,
    /// Start of D in the flat buffer; the others follow in the order of [`NAMES`].
    pub(super) offset: usize,
}

impl Bottleneck {
    /// Creates the bottleneck behind a module's output.
    pub fn new(module: impl Into<Module>, size: usize, act: Activation) -> Self {
        let Module { name, outputs, .. } = module.into();
        Self { module: name, features: outputs, size, act, offset: 0 }
    }

    /// The ranges of D, b_D, U and b_U in the flat buffer of its set.
    pub fn ranges(&self) -> [Range<usize>; 4] {
        let mut end = self.offset;
        [self.size * self.features, self.size, self.size * self.features, self.features].map(|length| {
            end += length;
            end - length..end
        })
    }

    pub(super) fn identity(&self) -> String {
        format!("bottleneck {} {} {:?};", self.module, self.size, self.act)
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        let shapes = [
            vec![self.size, self.features],
            vec![self.size],
            vec![self.features, self.size],
            vec![self.features],
        ];
        NAMES.into_iter().zip(shapes).collect()
    }

    /// Draws D uniformly in ±1/√features; the rest stays zero.
    pub(super) fn initialise(&self, seed: u64, values: &mut [f32]) {
        let stream = Stream::new(seed, &format!("adapter_down {}", self.module));
        let bound = 1.0 / (self.features as f32).sqrt();
        let [down, ..] = self.ranges();
        for (i, value) in values[down].iter_mut().enumerate() {
            *value = (2.0 * stream.uniform(i as u64) - 1.0) * bound;
        }
    }

    /// Computes `h [T, features] → y [T, features]`, and keeps h and `D·h + b_D [T, size]`.
    pub(super) fn forward(
        &self,
        values: &[f32],
        h: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<(Tensor, Kept)> {
        let (rows, width) = h.shape();
        if width != self.features {
            let (module, features) = (&self.module, self.features);
            return Err(Error::Model(format!(
                "{module} gives {width} features, its adapter layer takes {features}"
            )));
        }
        let [down, down_bias, up, up_bias] = self.ranges().map(|range| &values[range]);
        let dropped = dropout.map(|dropout| dropout.mask(h, &self.module)).transpose()?;
        let x = dropped.as_ref().map_or(h, |(masked, _)| masked);
        let mut u = product(by_row(x), Operand::by_row(Elements::F32(down), self.size, width));
        host::update_rows(&mut u, self.size, |_, row| add(row, down_bias));
        let u = Tensor::new(u, (rows, self.size))?;
        let a = gated_act::forward(&u, None, self.act)?;
        let mut y = product(by_row(&a), Operand::by_row(Elements::F32(up), width, self.size));
        host::update_rows(&mut y, width, |row, out| {
            add(out, up_bias);
            add(out, &h.numbers()[row * width..(row + 1) * width]);
        });
        let kept = Kept { hidden: vec![h.clone(), u], dropped };
        Ok((Tensor::new(y, (rows, width))?, kept))
    }

    /// Computes `dy [T, features] → dh [T, features]`, and adds the gradients to `gradients` if it is trained.
    pub(super) fn backward(
        &self,
        values: &[f32],
        dy: &Tensor,
        kept: &Kept,
        gradients: Option<&mut [f32]>,
    ) -> Result<Tensor> {
        let [h, u] = kept.hidden.as_slice() else {
            return Err(Error::Model(format!(
                "{}: what its adapter layer computed was not kept",
                self.module
            )));
        };
        let (rows, width) = dy.shape();
        let [down, _, up, _] = self.ranges().map(|range| &values[range]);
        let da = product(by_row(dy), Operand::by_column(Elements::F32(up), width, self.size));
        let du = gated_act::backward_plain(&Tensor::new(da, (rows, self.size))?, u, self.act)?;
        let x = kept.dropped.as_ref().map_or(h, |(masked, _)| masked);
        if let Some(gradients) = gradients {
            let a = gated_act::forward(u, None, self.act)?;
            let parts = [
                product(by_column(&du), by_column(x)),
                sums(&du),
                product(by_column(dy), by_column(&a)),
                sums(dy),
            ];
            for (range, part) in self.ranges().into_iter().zip(parts) {
                add(&mut gradients[range], &part);
            }
        }
        let through = product(by_row(&du), Operand::by_column(Elements::F32(down), self.size, width));
        let through = Tensor::new(through, (rows, width))?;
        match &kept.dropped {
            None => dy.plus(&through),
            Some((_, factors)) => dy.plus(&through.times(factors)?),
        }
    }
}

pub(super) fn product(a: Operand, b: Operand) -> Vec<f32> {
    gemm(&a, &b, Precision::F32)
}

pub(super) fn by_row(x: &Tensor) -> Operand<'_> {
    let (rows, width) = x.shape();
    Operand::by_row(Elements::F32(x.numbers()), rows, width)
}

pub(super) fn by_column(x: &Tensor) -> Operand<'_> {
    let (rows, width) = x.shape();
    Operand::by_column(Elements::F32(x.numbers()), rows, width)
}

pub(super) fn add(to: &mut [f32], x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += x);
}

/// The sums of the columns, row by row.
pub(super) fn sums(x: &Tensor) -> Vec<f32> {
    let mut all = vec![0.0; x.shape().1];
    (0..x.shape().0).for_each(|row| add(&mut all, x.row(row)));
    all
}

#[cfg(test)]
mod tests {
    use super::super::{Adapter, Adapters};
    use super::*;
    use crate::ops::testing::{assert_finite_differences, noise, noise_of};

    const ACTS: [Activation; 3] = [Activation::Gelu, Activation::Silu, Activation::GeluTanh];

    fn module() -> Module {
        Module { name: "m".into(), inputs: 4, outputs: 9 }
    }

    fn drawn(act: Activation) -> Adapters {
        let mut set = Adapters::zeros([Bottleneck::new(module(), 5, act)]).unwrap();
        set.update(|values| values.copy_from_slice(&noise_of(values.len(), 3)));
        set
    }

    fn of(set: &Adapters) -> &Bottleneck {
        match set.find("m") {
            Some(Adapter::Bottleneck(bottleneck)) => bottleneck,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (h, dy) = (noise(&[11, 9], 1), noise(&[11, 9], 2));
        let dropout = Dropout { probability: 0.3, stream: Stream::new(1, "dropout") };
        for act in ACTS {
            for dropout in [None, Some(dropout)] {
                let set = drawn(act);
                let (_, kept) = of(&set).forward(set.values(), &h, dropout).unwrap();
                let mut gradients = vec![0.0; set.values().len()];
                let dh = of(&set).backward(set.values(), &dy, &kept, Some(&mut gradients)).unwrap();
                assert_finite_differences(&h, &dy, &dh, |h| {
                    Ok(of(&set).forward(set.values(), h, dropout)?.0)
                });
                let values = Tensor::new(set.values().to_vec(), (1, gradients.len())).unwrap();
                let gradients = Tensor::new(gradients, values.shape()).unwrap();
                assert_finite_differences(&values, &dy, &gradients, |values| {
                    Ok(of(&set).forward(values.numbers(), &h, dropout)?.0)
                });
            }
        }
    }

    #[test]
    fn it_starts_as_the_module_to_the_bit_and_a_rows_bits_are_its_own() {
        let h = noise(&[7, 9], 1);
        let set = Adapters::initialised([Bottleneck::new(module(), 5, Activation::Relu)], 1).unwrap();
        assert_eq!(of(&set).forward(set.values(), &h, None).unwrap().0, h);
        let set = drawn(Activation::Gelu);
        let all = of(&set).forward(set.values(), &h, None).unwrap().0;
        let alone = Tensor::new(h.row(4).to_vec(), (1, 9)).unwrap();
        let alone = of(&set).forward(set.values(), &alone, None).unwrap().0;
        assert_eq!(alone.row(0), all.row(4));
    }
}
