//! The oracle of every gradient test: candle's autograd on an operation's plain form, against the hand-written backward
//! pass.

pub use candle_core::Tensor as Plain;
use candle_core::{Device, Tensor, Var};

use super::frozen_linear::Linear;
use crate::error::{Error, Result};
use crate::ops;

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.to_string())
    }
}

/// Returns a tensor as candle's.
pub fn candle(x: &ops::Tensor) -> Tensor {
    Tensor::from_slice(x.numbers(), x.shape(), &Device::Cpu).unwrap()
}

/// Returns candle's matrix as a tensor.
pub fn ours(x: &Tensor) -> ops::Tensor {
    let numbers = x.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    ops::Tensor::new(numbers, x.dims2().unwrap()).unwrap()
}

/// Returns the value of a plain form.
pub fn value(inputs: &[&ops::Tensor], plain: impl Fn(&[Tensor]) -> Result<Tensor>) -> ops::Tensor {
    ours(&plain(&inputs.iter().map(|x| candle(x)).collect::<Vec<_>>()).unwrap())
}

/// Returns the gradients of `plain(inputs)` with respect to each input, given the gradient `dy` of its output. An input
/// that the output does not depend on gets zeros.
pub fn gradients(
    inputs: &[&ops::Tensor],
    dy: &ops::Tensor,
    plain: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<ops::Tensor>> {
    let dy = candle(dy);
    let vars = inputs.iter().map(|x| Ok(Var::from_tensor(&candle(x))?)).collect::<Result<Vec<_>>>()?;
    let leaves: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = plain(&leaves)?;
    if y.dims() != dy.dims() {
        return Err(Error::Model(format!("gradient {:?} of an output {:?}", dy.dims(), y.dims())));
    }
    let store = (y * dy)?.sum_all()?.backward()?;
    leaves
        .iter()
        .map(|x| {
            Ok(match store.get(x) {
                Some(g) => ours(g),
                None => ours(&x.zeros_like()?),
            })
        })
        .collect()
}

/// A frozen linear map in plain tensor operations: `x [T, in] → [T, out]`.
pub fn linear(map: &Linear, x: &Tensor) -> Result<Tensor> {
    let weight = Tensor::from_vec(map.weight().elements().to_f32(), map.weight().shape(), x.device())?;
    let y = if map.transposed() { x.matmul(&weight)? } else { x.matmul(&weight.t()?)? };
    match map.bias() {
        Some(bias) => Ok(y.broadcast_add(&Tensor::new(bias, x.device())?)?),
        None => Ok(y),
    }
}
