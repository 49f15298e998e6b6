//! The oracle of every gradient test: candle's autograd on an operation's plain form, against the hand-written backward
//! pass.

use candle_core::{Tensor, Var};

use super::frozen_linear::Linear;
use crate::error::{Error, Result};

/// Returns the gradients of `plain(inputs)` with respect to each input, given the gradient `dy` of its output. An input
/// that the output does not depend on gets zeros.
pub fn gradients(
    inputs: &[&Tensor],
    dy: &Tensor,
    plain: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let vars = inputs.iter().map(|x| Ok(Var::from_tensor(x)?)).collect::<Result<Vec<_>>>()?;
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
                Some(g) => g.clone(),
                None => x.zeros_like()?,
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
