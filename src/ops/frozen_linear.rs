//! `y = x·Wᵀ + b` with a frozen `W [out, in]`: the only gradient is `dx = dy·W`.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::Tensor;
use super::gemm::{Operand, Packed, Precision, Segment, add_products, sum_of_products};
use super::host;
use crate::error::Result;
use crate::weights::{DType, Elements, FrozenWeight};

/// Norms by the version of the adapter that they belong to, the oldest first.
type Norms = Vec<(u64, Arc<[f32]>)>;

/// Versions whose norms are kept: those of the policy, of the reference and of adapters that belong to the base.
const MOST_NORMS: usize = 4;

/// A frozen linear map.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: FrozenWeight,
    /// Whether the weight is stored `[in, out]` (GPT-2's Conv1D) instead of `[out, in]`.
    transposed: bool,
    bias: Option<Vec<f32>>,
    norms: Arc<Mutex<Norms>>,
}

impl Linear {
    /// Creates the map of a two-dimensional `weight`; `bias` has one number per output.
    pub fn new(weight: FrozenWeight, transposed: bool, bias: Option<Vec<f32>>) -> Self {
        Self { weight, transposed, bias, norms: Arc::default() }
    }

    /// The number of input features.
    pub fn inputs(&self) -> usize {
        self.weight.shape()[usize::from(!self.transposed)]
    }

    /// The number of output features.
    pub fn outputs(&self) -> usize {
        self.weight.shape()[usize::from(self.transposed)]
    }

    /// The weight as stored.
    pub fn weight(&self) -> &FrozenWeight {
        &self.weight
    }

    /// Whether the weight is stored `[in, out]`.
    pub fn transposed(&self) -> bool {
        self.transposed
    }

    /// The bias, if there is one.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Returns the weight as the right operand of a product; its lanes are the outputs (`x·Wᵀ`) or the inputs (`dy·W`).
    pub(super) fn operand(&self, outputs_are_lanes: bool) -> Operand<'_> {
        self.rows_operand(0..self.outputs(), outputs_are_lanes)
    }

    /// Like [`Linear::operand`], for the outputs in `range` only.
    pub(super) fn rows_operand(&self, range: Range<usize>, outputs_are_lanes: bool) -> Operand<'_> {
        let (data, outputs, inputs) = (self.weight.elements(), range.len(), self.inputs());
        let (output_stride, input_stride) = if self.transposed { (1, self.outputs()) } else { (inputs, 1) };
        let data = data.slice(range.start * output_stride..data.len());
        if outputs_are_lanes {
            Operand::strided(data, outputs, inputs, output_stride, input_stride)
        } else {
            Operand::strided(data, inputs, outputs, input_stride, output_stride)
        }
    }

    /// Writes the weights of one output, `W[output, ·]`, into `row [in]`.
    pub fn output_row(&self, output: usize, row: &mut [f32]) {
        let (weight, inputs) = (self.weight.elements(), self.inputs());
        if self.transposed {
            row.iter_mut().enumerate().for_each(|(i, x)| *x = weight.get(i * self.outputs() + output));
        } else {
            weight.slice(output * inputs..(output + 1) * inputs).widen_into(row);
        }
    }

    /// The same map with its weight stored `[out, in]`.
    ///
    /// # Errors
    /// None for a matrix that was checked.
    pub fn by_output(&self) -> Result<Cow<'_, Self>> {
        if !self.transposed {
            return Ok(Cow::Borrowed(self));
        }
        let (outputs, inputs) = (self.outputs(), self.inputs());
        let mut rows = vec![0.0; outputs * inputs];
        rows.chunks_exact_mut(inputs).enumerate().for_each(|(output, row)| self.output_row(output, row));
        let weight = FrozenWeight::from_f32(rows, &[outputs, inputs])?;
        Ok(Cow::Owned(Self::new(weight, false, self.bias.clone())))
    }

    /// The same map with its weight stored as `dtype`.
    pub fn converted(&self, dtype: DType) -> Self {
        Self::new(self.weight.to_dtype(dtype), self.transposed, self.bias.clone())
    }

    /// The floating-point operations of one product of `rows` rows.
    pub(super) fn flop(&self, rows: usize) -> usize {
        2 * rows * self.inputs() * self.outputs()
    }

    /// The precision to which the operands of its products are rounded.
    pub fn precision(&self) -> Precision {
        Precision::of(&self.weight.elements())
    }

    /// Returns `y [T, out]` for `x [T, in]`.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _) = x.shape();
        let x = x.numbers();
        let x = Packed::new(&Operand::by_row(Elements::F32(x), rows, self.inputs()), self.precision());
        Tensor::new(self.products(&x, Vec::new()), (rows, self.outputs()))
    }

    /// Computes `x·Wᵀ + b` plus the products in `more`, in one pass over the output.
    pub(super) fn products<'a>(&'a self, x: &'a Packed, more: Vec<Segment<'a>>) -> Vec<f32> {
        let mut segments = vec![Segment { a: x, b: self.operand(true) }];
        segments.extend(more);
        match &self.bias {
            None => sum_of_products(&segments),
            Some(bias) => {
                let mut y = host::build_rows(x.rows(), bias.len(), |_, row| row.copy_from_slice(bias));
                add_products(&mut y, &segments);
                y
            }
        }
    }

    /// Adds the bias and the products in `more` to `plain`, which is `x·Wᵀ [T, out]`.
    pub(super) fn completed(&self, mut plain: Vec<f32>, more: &[Segment]) -> Vec<f32> {
        if let Some(bias) = &self.bias {
            host::update_rows(&mut plain, bias.len(), |_, row| {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            });
        }
        if !more.is_empty() {
            add_products(&mut plain, more);
        }
        plain
    }

    /// Returns the norms of the rows of `W + s·B·A`, which `compute` makes if they are not known. `version` is a number
    /// that A and B share with no others, past or present.
    ///
    /// # Errors
    /// The errors of `compute`.
    pub fn norms(&self, version: u64, compute: impl FnOnce() -> Result<Vec<f32>>) -> Result<Arc<[f32]>> {
        let known =
            |norms: &Norms| norms.iter().find(|(of, _)| *of == version).map(|(_, norms)| norms.clone());
        let lock = || self.norms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(norms) = known(&lock()) {
            return Ok(norms);
        }
        let new: Arc<[f32]> = compute()?.into();
        let mut all = lock();
        if all.len() == MOST_NORMS {
            all.remove(0);
        }
        all.push((version, new.clone()));
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::lora_linear::{Backward, input_gradient};
    use crate::ops::oracle;
    use crate::ops::testing::{assert_finite_differences, assert_same, noise, noise_of};
    use crate::weights::DType;

    fn linear(transposed: bool, bias: bool) -> Linear {
        let (shape, bias) = (if transposed { [9, 21] } else { [21, 9] }, bias.then(|| noise_of(21, 3)));
        Linear::new(FrozenWeight::from_f32(noise_of(9 * 21, 2), &shape).unwrap(), transposed, bias)
    }

    #[test]
    fn forward_and_backward_match_the_plain_form() {
        let (x, dy) = (noise(&[13, 9], 1), noise(&[13, 21], 4));
        for (transposed, bias) in [(false, false), (false, true), (true, true)] {
            let linear = linear(transposed, bias);
            let plain = |v: &[oracle::Plain]| oracle::linear(&linear, &v[0]);
            assert_same(&linear.forward(&x).unwrap(), &oracle::value(&[&x], plain), 1e-6, "forward");
            let back = Backward::new(&linear, &dy).unwrap();
            let dx = input_gradient(vec![back], None).unwrap().finish().unwrap();
            let want = oracle::gradients(&[&x], &dy, plain).unwrap();
            assert_same(&dx, &want[0], 1e-6, "backward");
            assert_finite_differences(&x, &dy, &dx, |x| linear.forward(x));
        }
    }

    #[test]
    fn half_precision_weights_stay_near_their_f32_values() {
        let (x, wide) = (noise(&[13, 9], 1), linear(false, true));
        for (dtype, tolerance) in [(DType::F16, 1e-6), (DType::Bf16, 1e-2)] {
            let weight = wide.weight.to_dtype(dtype);
            let exact = Linear::new(weight.to_dtype(DType::F32), false, wide.bias.clone());
            let half = Linear::new(weight, false, wide.bias.clone());
            // f16 weights are multiplied in f32; with bf16 weights the activations are rounded as well (2⁻⁹ each).
            assert_same(&half.forward(&x).unwrap(), &exact.forward(&x).unwrap(), tolerance, dtype.name());
        }
    }
}
