//! `h = act(gate) ∘ up` (Shazeer 2020, arXiv 2002.05202), and `h = act(x)` where there is no gate.

use serde::{Deserialize, Serialize};

use super::Tensor;
use super::host;
use super::simd::{exp, fma, vectorised};
use crate::error::Result;

/// The nonlinearities of the model families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// x·Φ(x), computed with the error function.
    Gelu,
    /// GELU's tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    Relu2,
}

impl Activation {
    /// Returns the nonlinearity with this name in `config.json` (`hidden_act`, `activation_function`, ...).
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Self::GeluTanh,
            "relu" => Self::Relu,
            "relu2" => Self::Relu2,
            _ => return None,
        })
    }

    /// Returns a name by which [`Activation::by_name`] finds it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_new",
            Self::Relu => "relu",
            Self::Relu2 => "relu2",
        }
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// Returns (act(x), act'(x)).
#[inline(always)]
fn value_and_slope<const FMA: bool>(act: Activation, x: f32) -> (f32, f32) {
    match act {
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-x));
            (x * sigmoid, sigmoid * fma::<FMA>(x, 1.0 - sigmoid, 1.0))
        }
        Activation::GeluTanh => {
            let inner = SQRT_2_OVER_PI * x * fma::<FMA>(0.044_715 * x, x, 1.0);
            // tanh(u) = 1 − 2 / (e^{2u} + 1)
            let tanh = 1.0 - 2.0 / (exp::<FMA>(2.0 * inner) + 1.0);
            let slope = SQRT_2_OVER_PI * fma::<FMA>(3.0 * 0.044_715 * x, x, 1.0);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope)
        }
        Activation::Gelu => {
            let cdf = 0.5 * (1.0 + libm::erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2) as f32);
            let density = 0.398_942_3 * exp::<FMA>(-0.5 * x * x);
            (x * cdf, fma::<FMA>(x, density, cdf))
        }
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Relu2 => (x.max(0.0) * x.max(0.0), 2.0 * x.max(0.0)),
    }
}

vectorised! {
    fn forward_row(act: Activation, gate: &[f32], up: Option<&[f32]>, h: &mut [f32]) {
        // There is one loop per activation, so that each vectorises.
        macro_rules! each { ($act:path) => { match up {
            Some(up) => for ((h, g), u) in h.iter_mut().zip(gate).zip(up) { *h = value_and_slope::<FMA>($act, *g).0 * u; },
            None => for (h, g) in h.iter_mut().zip(gate) { *h = value_and_slope::<FMA>($act, *g).0; },
        } } }
        match act {
            Activation::Silu => each!(Activation::Silu),
            Activation::Gelu => each!(Activation::Gelu),
            Activation::GeluTanh => each!(Activation::GeluTanh),
            Activation::Relu => each!(Activation::Relu),
            Activation::Relu2 => each!(Activation::Relu2),
        }
    }
}

vectorised! {
    /// `d_gate` holds `dh` on entry.
    fn backward_row(act: Activation, gate: &[f32], up: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        macro_rules! each { ($act:path) => {
            for (((dg, du), g), u) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up) {
                let (value, slope) = value_and_slope::<FMA>($act, *g);
                *du = *dg * value;
                *dg = *dg * u * slope;
            }
        } }
        match act {
            Activation::Silu => each!(Activation::Silu),
            Activation::Gelu => each!(Activation::Gelu),
            Activation::GeluTanh => each!(Activation::GeluTanh),
            Activation::Relu => each!(Activation::Relu),
            Activation::Relu2 => each!(Activation::Relu2),
        }
    }
}

vectorised! {
    fn backward_plain_row(act: Activation, x: &[f32], dx: &mut [f32]) {
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx *= value_and_slope::<FMA>(act, *x).1;
        }
    }
}

/// Returns `h [T, F]` for `gate, up [T, F]`; without `up`, `act(gate)`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn forward(gate: &Tensor, up: Option<&Tensor>, act: Activation) -> Result<Tensor> {
    let (rows, width) = gate.shape();
    let (gate, up) = (gate.numbers(), up.map(Tensor::numbers));
    let row = |r: usize, h: &mut [f32]| {
        let range = r * width..(r + 1) * width;
        forward_row(act, &gate[range.clone()], up.as_ref().map(|up| &up[range]), h);
    };
    Tensor::new(host::build_rows(rows, width, row), (rows, width))
}

/// Returns `(d gate, d up)` for `dh [T, F]`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn backward(dh: &Tensor, gate: &Tensor, up: &Tensor, act: Activation) -> Result<(Tensor, Tensor)> {
    let (rows, width) = dh.shape();
    let (dh, gate, up) = (dh.numbers(), gate.numbers(), up.numbers());
    let (d_gate, d_up) = host::build_two(rows, width, |r, dg, du| {
        let range = r * width..(r + 1) * width;
        dg.copy_from_slice(&dh[range.clone()]);
        backward_row(act, &gate[range.clone()], &up[range], dg, du);
    });
    Ok((Tensor::new(d_gate, (rows, width))?, Tensor::new(d_up, (rows, width))?))
}

/// Returns `dx` for `dh [T, F]`, where `h = act(x)`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn backward_plain(dh: &Tensor, x: &Tensor, act: Activation) -> Result<Tensor> {
    let (rows, width) = dh.shape();
    let (dh, x) = (dh.numbers(), x.numbers());
    let row = |r: usize, dx: &mut [f32]| {
        let range = r * width..(r + 1) * width;
        dx.copy_from_slice(&dh[range.clone()]);
        backward_plain_row(act, &x[range], dx);
    };
    Tensor::new(host::build_rows(rows, width, row), (rows, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle::{self, Plain};
    use crate::ops::testing::{assert_finite_differences, assert_same, noise};

    /// The plain form of a nonlinearity.
    fn activated(act: Activation, x: &Plain) -> Result<Plain> {
        Ok(match act {
            Activation::Silu => x.silu()?,
            Activation::Gelu => x.gelu_erf()?,
            Activation::GeluTanh => x.gelu()?,
            Activation::Relu => x.relu()?,
            Activation::Relu2 => x.relu()?.sqr()?,
        })
    }

    /// The plain form of the gated product.
    fn reference(gate: &Plain, up: &Plain, act: Activation) -> Result<Plain> {
        Ok((activated(act, gate)? * up)?)
    }

    #[test]
    fn forward_and_backward_match_the_plain_form() {
        let (gate, up) = (noise(&[7, 37], 1).map(|x| 4.0 * x), noise(&[7, 37], 2));
        let dh = noise(&[7, 37], 3);
        use Activation::{Gelu, GeluTanh, Relu, Relu2, Silu};
        for act in [Silu, Gelu, GeluTanh, Relu, Relu2] {
            let what = format!("{act:?}");
            let plain = |v: &[Plain]| reference(&v[0], &v[1], act);
            let h = forward(&gate, Some(&up), act).unwrap();
            assert_same(&h, &oracle::value(&[&gate, &up], plain), 2e-6, &what);
            let (d_gate, d_up) = backward(&dh, &gate, &up, act).unwrap();
            let want = oracle::gradients(&[&gate, &up], &dh, plain).unwrap();
            assert_same(&d_gate, &want[0], 1e-5, &what);
            assert_same(&d_up, &want[1], 1e-5, &what);

            let plain = |v: &[Plain]| activated(act, &v[0]);
            let h = forward(&gate, None, act).unwrap();
            assert_same(&h, &oracle::value(&[&gate], plain), 2e-6, &what);
            let dx = backward_plain(&dh, &gate, act).unwrap();
            let want = oracle::gradients(&[&gate], &dh, plain).unwrap();
            assert_same(&dx, &want[0], 1e-5, &what);
            if act != Activation::Relu {
                assert_finite_differences(&gate, &dh, &dx, |x| forward(x, None, act));
                assert_finite_differences(&gate, &dh, &d_gate, |x| forward(x, Some(&up), act));
            }
        }
    }
}
