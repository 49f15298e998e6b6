//! Tests `gated_act.cu`: a dozen operations per number, with exponentials that are exact to two places.

use dpo_lora::device::Kind;

use crate::args;
use crate::bench::{Bench, KINDS, at, near, padded, picked, same, same_row, trimmed};

/// The tolerance in halves of a last place of the largest number of a row.
const PLACES: f64 = 24.0;

/// The error function, by a series of positive terms.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    if x.abs() > 6.0 { x.signum() } else { sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI }
}

/// Returns act(x) and act'(x).
fn act(act: i32, x: f64) -> (f64, f64) {
    use std::f64::consts::{PI, SQRT_2};
    let positive = x.max(0.0);
    match act {
        0 => {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
        }
        1 => {
            let below = 0.5 * (1.0 + erf(x / SQRT_2));
            (x * below, below + x * (-x * x / 2.0).exp() / (2.0 * PI).sqrt())
        }
        2 => {
            let k = (2.0 / PI).sqrt();
            let tanh = (k * (x + 0.044715 * x.powi(3))).tanh();
            let inner = k * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner)
        }
        3 => (positive, if x > 0.0 { 1.0 } else { 0.0 }),
        _ => (positive * positive, 2.0 * positive),
    }
}

#[test]
fn slopes_are_those_of_the_activations() {
    for kind in 0..5 {
        for i in -40..40 {
            let x = f64::from(i) / 10.0 + 0.013;
            let slope = (act(kind, x + 1e-5).0 - act(kind, x - 1e-5).0) / 2e-5;
            assert!((slope - act(kind, x).1).abs() < 1e-6, "{kind} {x}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    rows: usize,
    width: usize,
    act: i32,
    gated: bool,
    bias: bool,
    pad: usize,
    shift: usize,
    /// The number of blocks along the row.
    blocks: usize,
    again: bool,
}

fn case(bench: &Bench, c: Case) {
    let (what, width) = (format!("act {c:?}"), c.width);
    let columns = width * (1 + usize::from(c.gated));
    let (y, dh) = (bench.rounded(c.kind, c.rows * columns, 3.0), bench.rounded(c.kind, c.rows * width, 1.0));
    let (bias, ldy, ldh) = (bench.normal(columns, 1.0), columns + c.pad, width + 2 * c.pad);
    let b = c.bias.then(|| bench.input(Kind::F32, &bias, c.shift));
    let run = |sel: &[usize]| {
        let y = bench.input(c.kind, &padded(&picked(&y, columns, sel), columns, ldy), c.shift);
        let d = bench.input(c.kind, &padded(&picked(&dh, width, sel), width, ldh), c.shift);
        let [h, again] = [(); 2].map(|()| bench.output(c.kind, sel.len() * ldh, c.shift));
        let dy = bench.output(c.kind, sel.len() * ldy, c.shift);
        let (geometry, gated) = (([c.blocks, sel.len()], 256, 0), i32::from(c.gated));
        let forward = args![y.at(), ldy, at(b.as_ref()), c.act, gated, width, h.at(), ldh];
        bench.run("gated_act", "act_forward", c.kind, geometry, forward);
        let backward = args![
            d.at(),
            ldh,
            y.at(),
            ldy,
            at(b.as_ref()),
            c.act,
            gated,
            width,
            dy.at(),
            ldy,
            at(c.again.then_some(&again)),
            ldh,
        ];
        bench.run("gated_act", "act_backward", c.kind, geometry, backward);
        if c.again {
            same(&what, &again.read(), &h.read());
        }
        (h.read(), dy.read(), h.numbers(c.kind), dy.numbers(c.kind))
    };
    let (all, row) = (run(&(0..c.rows).collect::<Vec<_>>()), c.rows / 2);
    let alone = run(&[row]);
    same_row(&what, &all.0, &alone.0, row);
    same_row(&what, &all.1, &alone.1, row);
    let (mut h, mut dy) = (Vec::new(), Vec::new());
    for (y, dh) in y.chunks(columns).zip(dh.chunks(width)) {
        let x = |j: usize| f64::from(y[j]) + if c.bias { f64::from(bias[j]) } else { 0.0 };
        let up = |j: usize| if c.gated { x(width + j) } else { 1.0 };
        h.extend((0..width).map(|j| act(c.act, x(j)).0 * up(j)));
        dy.extend((0..width).map(|j| f64::from(dh[j]) * act(c.act, x(j)).1 * up(j)));
        if c.gated {
            dy.extend((0..width).map(|j| f64::from(dh[j]) * act(c.act, x(j)).0));
        }
    }
    near(&what, c.kind, &trimmed(&what, &all.2, width, ldh), &h, width, PLACES);
    near(&what, c.kind, &trimmed(&what, &all.3, columns, ldy), &dy, columns, PLACES);
}

fn all_of(bench: &Bench, kind: Kind, rows: usize, width: usize) {
    for act in 0..5 {
        for gated in [true, false] {
            let blocks = width.div_ceil(2048);
            let plain =
                Case { kind, rows, width, act, gated, bias: false, pad: 8, shift: 0, blocks, again: true };
            case(bench, Case { bias: act % 2 == 0, ..plain });
            case(bench, Case { bias: true, pad: 3, shift: 1, blocks: 2, ..plain });
            case(bench, Case { pad: 0, again: false, ..plain });
        }
    }
}

pub fn some(bench: &Bench) {
    KINDS.into_iter().for_each(|kind| all_of(bench, kind, 2, 40));
}

#[test]
fn activations_and_their_gradients() {
    let Some(bench) = Bench::new("gated_act") else { return };
    for kind in KINDS {
        for (rows, width) in [(7, 7), (3, 36), (300, 64), (1, 896), (2, 4864)] {
            all_of(&bench, kind, rows, width);
        }
    }
}

#[test]
fn activations_of_extreme_numbers_are_numbers() {
    let Some(bench) = Bench::new("gated_act extremes") else { return };
    let y = [-200.0, 200.0, 0.0, -0.0, 88.7, -88.7, 1e-30, f32::NAN];
    for (kind, act) in KINDS.into_iter().flat_map(|kind| (0..5).map(move |act| (kind, act))) {
        let (y, d) = (bench.input(kind, &y, 0), bench.input(kind, &[1.0; 8], 0));
        let (h, dy) = (bench.output(kind, 8, 0), bench.output(kind, 8, 0));
        let none = at(None);
        let args = args![d.at(), 8, y.at(), 8, none, act, 0, 8, dy.at(), 8, h.at(), 8];
        bench.run("gated_act", "act_backward", kind, ([1, 1], 256, 0), args);
        let (h, dy) = (h.numbers(kind), dy.numbers(kind));
        assert!(h[..7].iter().chain(&dy[..7]).all(|x| x.is_finite()), "{act}: {h:?} {dy:?}");
        assert!(h[7].is_nan(), "{act}");
    }
}
