//! Tests `norm.cu`. The sums of a row of n numbers in f32 are off by half a place for each level of the sum, and the
//! root by some more.

use dpo_lora::device::Kind;

use crate::args;
use crate::bench::{Bench, KINDS, at, near, near_size, padded, picked, same_row, trimmed, wide};

/// The tolerance in halves of a last place of the largest number of a row.
const PLACES: f64 = 60.0;
/// Large, so that a wrong value is detected.
const EPS: f32 = 0.02;
const POST_EPS: f32 = 0.05;

/// The norm of a run of numbers: 0 none, 1 RMS, 2 layer norm. There are as many gains and biases as numbers.
pub fn norm(x: &[f64], kind: i32, gain: &[f64], bias: Option<&[f64]>, eps: f32) -> Vec<f64> {
    if kind == 0 {
        return x.to_vec();
    }
    let (mean, n) = moments(x, kind, eps);
    (0..x.len()).map(|i| (x[i] - mean) * n * gain[i] + bias.map_or(0.0, |bias| bias[i])).collect()
}

/// Returns the mean (0 for RMS) and 1/√(variance + ε).
fn moments(x: &[f64], kind: i32, eps: f32) -> (f64, f64) {
    let size = x.len() as f64;
    let mean = if kind == 2 { x.iter().sum::<f64>() / size } else { 0.0 };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size;
    (mean, 1.0 / (variance + f64::from(eps)).sqrt())
}

/// Returns the gradient of x, given that of the norm.
pub fn slope(x: &[f64], d: &[f64], kind: i32, gain: &[f64], eps: f32) -> Vec<f64> {
    if kind == 0 {
        return d.to_vec();
    }
    let ((mean, n), size) = (moments(x, kind, eps), x.len() as f64);
    let u: Vec<f64> = d.iter().zip(gain).map(|(d, gain)| d * gain).collect();
    let along = u.iter().zip(x).map(|(u, x)| u * (x - mean)).sum::<f64>() / size;
    let straight = if kind == 2 { u.iter().sum::<f64>() / size } else { 0.0 };
    (0..x.len()).map(|i| n * u[i] - n.powi(3) * along * (x[i] - mean) - n * straight).collect()
}

#[test]
fn slopes_are_those_of_the_norms() {
    let x: Vec<f64> = (0..9).map(|i| f64::from(i * i % 7) - 2.0).collect();
    let (d, gain): (Vec<f64>, Vec<f64>) =
        (0..9).map(|i| (f64::from(i % 4) - 1.0, 0.3 * f64::from(i) - 1.0)).unzip();
    for kind in 0..3 {
        let found = slope(&x, &d, kind, &gain, EPS);
        for i in 0..9 {
            let at = |step: f64| {
                let mut x = x.clone();
                x[i] += step;
                norm(&x, kind, &gain, None, EPS).iter().zip(&d).map(|(y, d)| y * d).sum::<f64>()
            };
            assert!((found[i] - (at(1e-5) - at(-1e-5)) / 2e-5).abs() < 1e-6, "{kind} {i}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    rows: usize,
    hidden: usize,
    norm: i32,
    /// The norm of what is added; none without y.
    post: i32,
    y: bool,
    bias: bool,
    gathered: bool,
    pad: usize,
    shift: usize,
    outs: [bool; 2],
}

impl Case {
    fn new(kind: Kind, rows: usize, hidden: usize, norm: i32) -> Self {
        let (post, y, bias, gathered) = (0, true, norm == 2, false);
        Self { kind, rows, hidden, norm, post, y, bias, gathered, pad: 8, shift: 0, outs: [true; 2] }
    }

    fn vectors(&self, bench: &Bench) -> [Vec<f32>; 5] {
        std::array::from_fn(|_| bench.normal(self.hidden, 1.0))
    }
}

/// Tests `x_out` and `out`; each row is also computed alone.
fn forward(bench: &Bench, c: Case) {
    let (what, hidden, shift) = (format!("norm_forward {c:?}"), c.hidden, c.shift);
    let from = c.rows + if c.gathered { 3 } else { 0 };
    let x: Vec<f32> = bench.normal(from * hidden, 2.0).iter().map(|x| x + 0.5).collect();
    let rows: Vec<u32> = (0..c.rows).map(|i| if c.gathered { bench.below(from) } else { i } as u32).collect();
    let y = bench.rounded(c.kind, c.rows * hidden, 1.3);
    let [y_bias, post_gain, post_bias, gain, bias] = c.vectors(bench);
    let (ldy, ldo, scale) = (hidden + c.pad, hidden + 2 * c.pad, 0.75f32);
    let vector = |used: bool, values: &[f32]| used.then(|| bench.input(Kind::F32, values, shift));
    let bufs = [
        vector(c.bias, &y_bias),
        vector(c.post != 0, &post_gain),
        vector(c.post == 2, &post_bias),
        vector(c.norm != 0, &gain),
        vector(c.norm == 2, &bias),
    ];
    let run = |sel: &[usize]| {
        let ids = picked(&rows, 1, sel);
        let x = if c.gathered { x.clone() } else { picked(&x, hidden, sel) };
        let x = bench.input(Kind::F32, &x, shift);
        let ids = c.gathered.then(|| bench.bytes(bytemuck::cast_slice(&ids)));
        let y = c.y.then(|| bench.input(c.kind, &padded(&picked(&y, hidden, sel), hidden, ldy), shift));
        let x_out = bench.output(Kind::F32, sel.len() * hidden, shift);
        let out = bench.output(c.kind, sel.len() * ldo, shift);
        let [y_bias, post_gain, post_bias, gain, bias] = bufs.each_ref().map(|buf| at(buf.as_ref()));
        let args = args![
            x.at(),
            at(ids.as_ref()),
            at(y.as_ref()),
            ldy,
            y_bias,
            post_gain,
            post_bias,
            c.post,
            POST_EPS,
            scale,
            at(c.outs[0].then_some(&x_out)),
            gain,
            bias,
            c.norm,
            EPS,
            at(c.outs[1].then_some(&out)),
            ldo,
            hidden,
        ];
        bench.run("norm", "norm_forward", c.kind, ([sel.len(), 1], 256, 4 * hidden), args);
        (x_out.read(), out.read(), x_out.numbers(Kind::F32), out.numbers(c.kind))
    };
    let all = run(&(0..c.rows).collect::<Vec<_>>());
    let alone = run(&[c.rows / 2]);
    same_row(&what, &all.0, &alone.0, c.rows / 2);
    same_row(&what, &all.1, &alone.1, c.rows / 2);
    let (mut sums, mut outs) = (Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        let mut sum = wide(&x[*row as usize * hidden..][..hidden]);
        if c.y {
            let branch: Vec<f64> = (0..hidden)
                .map(|j| f64::from(y[i * hidden + j]) + if c.bias { f64::from(y_bias[j]) } else { 0.0 })
                .collect();
            let post_bias = wide(&post_bias);
            let post_bias = (c.post == 2).then_some(post_bias.as_slice());
            let branch = norm(&branch, c.post, &wide(&post_gain), post_bias, POST_EPS);
            sum.iter_mut().zip(branch).for_each(|(sum, branch)| *sum += f64::from(scale) * branch);
        }
        let bias = wide(&bias);
        outs.extend(norm(&sum, c.norm, &wide(&gain), (c.norm == 2).then_some(bias.as_slice()), EPS));
        sums.extend(sum);
    }
    if c.outs[0] {
        near(&format!("{what} x_out"), Kind::F32, &all.2, &sums, hidden, PLACES);
    }
    if c.outs[1] {
        near(&what, c.kind, &trimmed(&what, &all.3, hidden, ldo), &outs, hidden, PLACES);
    }
}

/// Tests `dx` and `out`. Without `y` the incoming gradient is zero.
fn backward(bench: &Bench, c: Case, second: bool) {
    let (what, hidden, shift) = (format!("norm_backward {c:?} second {second}"), c.hidden, c.shift);
    let x: Vec<f32> = bench.normal(c.rows * hidden, 2.0).iter().map(|x| x + 0.5).collect();
    let [dy, dy2] = [(); 2].map(|()| bench.rounded(c.kind, c.rows * hidden, 1.0));
    let (dx, [_, _, _, gain, _]) = (bench.normal(c.rows * hidden, 1.0), c.vectors(bench));
    let (ld, ldo, scale) = (hidden + c.pad, hidden + 2 * c.pad, 0.5f32);
    let run = |sel: &[usize]| {
        let matrix = |used: bool, values: &[f32], ld: usize| {
            used.then(|| bench.input(c.kind, &padded(&picked(values, hidden, sel), hidden, ld), shift))
        };
        let (d, d2) = (matrix(c.y, &dy, ld), matrix(second, &dy2, ldo));
        let x = (c.norm != 0).then(|| bench.input(Kind::F32, &picked(&x, hidden, sel), shift));
        let gain = (c.norm != 0).then(|| bench.input(Kind::F32, &gain, shift));
        let to = bench.changing(Kind::F32, &picked(&dx, hidden, sel), shift);
        let out = bench.output(c.kind, sel.len() * ldo, shift);
        let args = args![
            at(d.as_ref()),
            ld,
            at(d2.as_ref()),
            ldo,
            at(x.as_ref()),
            at(gain.as_ref()),
            c.norm,
            EPS,
            to.at(),
            scale,
            at(c.outs[1].then_some(&out)),
            ldo,
            hidden,
        ];
        bench.run("norm", "norm_backward", c.kind, ([sel.len(), 1], 256, 8 * hidden), args);
        (to.read(), out.read(), to.numbers(Kind::F32), out.numbers(c.kind))
    };
    let all = run(&(0..c.rows).collect::<Vec<_>>());
    let alone = run(&[c.rows / 2]);
    same_row(&what, &all.0, &alone.0, c.rows / 2);
    same_row(&what, &all.1, &alone.1, c.rows / 2);
    let (mut want, gain) = (wide(&dx), wide(&gain));
    for (i, row) in want.chunks_mut(hidden).enumerate() {
        let part =
            |used: bool, d: &[f32]| if used { wide(&d[i * hidden..][..hidden]) } else { vec![0.0; hidden] };
        let d: Vec<f64> = part(c.y, &dy).iter().zip(part(second, &dy2)).map(|(a, b)| a + b).collect();
        let own = slope(&wide(&x[i * hidden..][..hidden]), &d, c.norm, &gain, EPS);
        row.iter_mut().zip(own).for_each(|(row, own)| *row += own);
    }
    near(&what, Kind::F32, &all.2, &want, hidden, PLACES);
    if c.outs[1] {
        let want: Vec<f64> = want.iter().map(|x| f64::from(scale) * x).collect();
        near(&what, c.kind, &trimmed(&what, &all.3, hidden, ldo), &want, hidden, PLACES);
    }
}

fn post_backward(bench: &Bench, c: Case) {
    let (what, hidden) = (format!("post_norm_backward {c:?}"), c.hidden);
    let (y, dx) = (bench.rounded(c.kind, c.rows * hidden, 1.3), bench.normal(c.rows * hidden, 1.0));
    let [y_bias, gain, ..] = c.vectors(bench);
    let (ldy, ldo, scale) = (hidden + c.pad, hidden + 2 * c.pad, 0.7f32);
    let run = |sel: &[usize]| {
        let d = bench.input(Kind::F32, &picked(&dx, hidden, sel), c.shift);
        let y = bench.input(c.kind, &padded(&picked(&y, hidden, sel), hidden, ldy), c.shift);
        let bias = c.bias.then(|| bench.input(Kind::F32, &y_bias, c.shift));
        let gain = bench.input(Kind::F32, &gain, c.shift);
        let out = bench.output(c.kind, sel.len() * ldo, c.shift);
        let args = args![
            d.at(),
            scale,
            y.at(),
            ldy,
            at(bias.as_ref()),
            gain.at(),
            c.norm,
            EPS,
            out.at(),
            ldo,
            hidden,
        ];
        bench.run("norm", "post_norm_backward", c.kind, ([sel.len(), 1], 256, 8 * hidden), args);
        (out.read(), out.numbers(c.kind))
    };
    let all = run(&(0..c.rows).collect::<Vec<_>>());
    same_row(&what, &all.0, &run(&[c.rows / 2]).0, c.rows / 2);
    let want: Vec<f64> = (0..c.rows)
        .flat_map(|i| {
            let at =
                |j: usize| f64::from(y[i * hidden + j]) + if c.bias { f64::from(y_bias[j]) } else { 0.0 };
            let x: Vec<f64> = (0..hidden).map(at).collect();
            let d: Vec<f64> =
                dx[i * hidden..][..hidden].iter().map(|d| f64::from(scale) * f64::from(*d)).collect();
            slope(&x, &d, c.norm, &wide(&gain), EPS)
        })
        .collect();
    near(&what, c.kind, &trimmed(&what, &all.1, hidden, ldo), &want, hidden, PLACES);
}

fn scored(bench: &Bench, c: Case) {
    let (what, hidden) = (format!("scored_backward {c:?}"), c.hidden);
    let mut starts = vec![0i32];
    for i in 0..c.rows {
        starts.push(starts[i] + (if i == c.rows / 2 { 3 } else { bench.below(4) }) as i32);
    }
    let count = *starts.last().unwrap() as usize;
    // Every item once, in another order.
    let items: Vec<i32> = (0..count).map(|i| ((i * 7 + 3) % count) as i32).collect();
    let items = if count.is_multiple_of(7) { (0..count as i32).rev().collect() } else { items };
    let (slopes, weights) = (bench.rounded(c.kind, count * hidden, 1.0), bench.normal(count, 1.0));
    let (x, [gain, ..]) = (bench.normal(c.rows * hidden, 2.0), c.vectors(bench));
    let (ldo, scale) = (hidden + c.pad, 0.5f32);
    let run = |from: usize, to: usize| {
        let rows = to - from;
        let (slopes, weights) = (bench.input(c.kind, &slopes, c.shift), bench.input(Kind::F32, &weights, 0));
        let (starts, items) = (bench.integers(&starts[from..=to]), bench.integers(&items));
        let x = bench.input(Kind::F32, &x[from * hidden..to * hidden], c.shift);
        let gain = bench.input(Kind::F32, &gain, c.shift);
        let (dx, out) =
            (bench.output(Kind::F32, rows * hidden, c.shift), bench.output(c.kind, rows * ldo, c.shift));
        let args = args![
            slopes.at(),
            weights.at(),
            starts.at(),
            items.at(),
            x.at(),
            gain.at(),
            c.norm,
            EPS,
            dx.at(),
            scale,
            at(c.outs[1].then_some(&out)),
            ldo,
            hidden,
        ];
        bench.run("norm", "scored_backward", c.kind, ([rows, 1], 256, 8 * hidden), args);
        (dx.read(), out.read(), dx.numbers(Kind::F32), out.numbers(c.kind))
    };
    let (all, row) = (run(0, c.rows), c.rows / 2);
    let alone = run(row, row + 1);
    same_row(&what, &all.0, &alone.0, row);
    same_row(&what, &all.1, &alone.1, row);
    let mut want = Vec::new();
    for i in 0..c.rows {
        let mut d = vec![0.0; hidden];
        for item in &items[starts[i] as usize..starts[i + 1] as usize] {
            let slope = &slopes[*item as usize * hidden..][..hidden];
            let weight = f64::from(weights[*item as usize]);
            d.iter_mut().zip(slope).for_each(|(d, slope)| *d += weight * f64::from(*slope));
        }
        want.extend(slope(&wide(&x[i * hidden..][..hidden]), &d, c.norm, &wide(&gain), EPS));
    }
    // The summed terms may cancel; they are near 1.
    near_size(&what, Kind::F32, &all.2, &want, hidden, PLACES, 1.0);
    if c.outs[1] {
        let want: Vec<f64> = want.iter().map(|x| f64::from(scale) * x).collect();
        near_size(&what, c.kind, &trimmed(&what, &all.3, hidden, ldo), &want, hidden, PLACES, 1.0);
    }
}

fn all_of(bench: &Bench, kind: Kind, rows: usize, hidden: usize) {
    for norm in 0..3 {
        let plain = Case::new(kind, rows, hidden, norm);
        let odd = Case { pad: 3, shift: 1, ..plain };
        forward(bench, Case { pad: [0, 8, 3][norm as usize], ..plain });
        forward(
            bench,
            Case { y: false, bias: false, gathered: true, shift: usize::from(norm == 1), ..plain },
        );
        backward(bench, plain, false);
        backward(bench, odd, true);
        backward(bench, Case { y: false, ..plain }, true);
        backward(bench, Case { outs: [true, false], pad: 0, ..plain }, false);
        post_backward(bench, Case { bias: norm != 1, ..plain });
        post_backward(bench, odd);
        scored(bench, plain);
        scored(bench, odd);
    }
    for post in 1..3 {
        forward(bench, Case { post, bias: post == 2, gathered: true, ..Case::new(kind, rows, hidden, 1) });
        forward(bench, Case { post, pad: 3, shift: 1, ..Case::new(kind, rows, hidden, 2) });
    }
    for outs in [[true, false], [false, true]] {
        forward(bench, Case { post: 1, outs, ..Case::new(kind, rows, hidden, 1) });
    }
}

pub fn some(bench: &Bench) {
    KINDS.into_iter().for_each(|kind| all_of(bench, kind, 2, 36));
}

#[test]
fn norms_and_their_gradients() {
    let Some(bench) = Bench::new("norm") else { return };
    for kind in KINDS {
        for (rows, hidden) in [(7, 7), (7, 36), (1, 64), (7, 896), (1, 2060)] {
            all_of(&bench, kind, rows, hidden);
        }
        for norm in 1..3 {
            let many = Case::new(kind, 300, 36, norm);
            forward(&bench, many);
            backward(&bench, many, true);
            post_backward(&bench, many);
            scored(&bench, many);
        }
    }
}
