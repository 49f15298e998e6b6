//! Tests `attention.cu`. The plain forms compute in f32: half a place for each key of a row, in practice far fewer. The
//! forms on tensor cores round the weights of keys to bf16 and are off by up to two roundings of the summed terms.

use dpo_lora::device::{Arg, Kind};

use crate::args;
use crate::bench::{Bench, Buf, KINDS, encode, near, near_size, padded, same, trimmed, wide};

/// The tolerance in halves of a last place of the largest number of a row: plain, and on tensor cores.
const PLACES: [f64; 2] = [100.0, 131_072.0];
/// Rows of NaN before the keys that are seen.
const LEAD: usize = 3;

/// A prompt and its continuations.
type Tree = (usize, &'static [usize]);
const SIBLINGS: &[Tree] = &[(70, &[3, 65]), (0, &[4]), (5, &[9, 1])];
const SHORT: &[Tree] = &[(9, &[3, 5])];

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    /// The padded head, on tensor cores.
    mma: Option<usize>,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    window: usize,
    softcap: f32,
    trees: &'static [Tree],
}

impl Case {
    fn width(&self) -> usize {
        self.heads * self.dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn places(&self) -> f64 {
        PLACES[usize::from(self.mma.is_some())]
    }

    /// Columns after a row of `o` or of its gradient.
    fn pitch(&self) -> usize {
        self.width() + if self.mma.is_some() { 8 } else { 3 }
    }

    /// Runs a kernel with its own arguments, followed by those that all kernels have.
    fn launch(&self, bench: &Bench, name: &str, tiles: usize, args: &[Arg]) {
        let rows = if name == "attention_forward" { 80 } else { 96 };
        let (module, version, block, shared) = match self.mma {
            None => ("attention", self.kind.name().into(), 128, 4 * (rows * self.dim + 64)),
            Some(padded) => {
                let row = 2 * (padded + 8);
                let shared = match (name, padded) {
                    ("attention_forward", 256) => 192 * row,
                    ("attention_forward", _) => 320 * row,
                    ("attention_backward_kv", 64) => 384 * row + 1536,
                    ("attention_backward_kv", _) => 256 * row + 768,
                    (_, 256) => 256 * row,
                    _ => 384 * row,
                };
                let module = match padded {
                    64 => "attention_64",
                    96 => "attention_96",
                    128 => "attention_128",
                    _ => "attention_256",
                };
                let block = if (name, padded) == ("attention_backward_kv", 256) { 256 } else { 128 };
                (module, format!("mma_{padded}"), block, shared)
            }
        };
        let all = args![self.heads, self.kv_heads, self.dim, self.scale(), self.softcap, self.window];
        let all = [args, all].concat();
        bench.launch(module, &format!("{name}_{version}"), ([tiles, self.heads], block, shared), &all);
    }
}

/// A run of rows: its first row, the number of rows, and the prefix that they all see.
struct Span {
    at: usize,
    rows: usize,
    prefix: (usize, usize),
}

/// Trees, one after another.
#[derive(Default)]
struct Packed {
    spans: Vec<Span>,
    positions: Vec<u32>,
    key_tiles: Vec<i32>,
}

impl Packed {
    fn new(trees: &[Tree]) -> Self {
        let mut all = Self::default();
        for (prompt, rest) in trees {
            let start = all.positions.len();
            let end = start + prompt + rest.iter().sum::<usize>();
            all.push(*prompt, (start, 0), end);
            for rows in *rest {
                all.push(*rows, (start, *prompt), all.positions.len() + rows);
            }
        }
        all
    }

    /// Returns a span whose keys are seen by rows before `end`.
    fn push(&mut self, rows: usize, prefix: (usize, usize), end: usize) {
        let at = self.positions.len();
        self.spans.push(Span { at, rows, prefix });
        self.positions.extend((prefix.1..prefix.1 + rows).map(|position| position as u32));
        for from in (0..rows).step_by(64) {
            let tile = [at + from, 64.min(rows - from), at + from, end, 0, 0, 0, 0];
            self.key_tiles.extend(tile.map(|x| x as i32));
        }
    }

    /// Returns tiles of up to `most` queries; keys begin at row `lead`.
    fn tiles(&self, most: usize, lead: usize) -> Vec<i32> {
        let tile = |span: &Span, first: usize| {
            let (p0, pn) = span.prefix;
            [span.at + first, most.min(span.rows - first), p0 + lead, pn, span.at + lead, first, 0, 0]
                .map(|x| x as i32)
        };
        self.spans
            .iter()
            .flat_map(|s| (0..s.rows).step_by(most).flat_map(move |first| tile(s, first)))
            .collect()
    }

    /// Returns the keys that each row sees.
    fn seen(&self, window: usize) -> Vec<Vec<usize>> {
        let keys = |span: &Span, i: usize| {
            let (p0, pn) = span.prefix;
            let all: Vec<usize> = (p0..p0 + pn).chain(span.at..=span.at + i).collect();
            all[if window == 0 { 0 } else { all.len().saturating_sub(window) }..].to_vec()
        };
        self.spans.iter().flat_map(|span| (0..span.rows).map(move |i| keys(span, i))).collect()
    }
}

/// Queries, keys, values and the gradient of the output, one after another and without gaps.
type Inputs<T> = [Vec<T>; 4];

/// All outputs, in f64.
#[derive(Default)]
struct Want {
    o: Vec<f64>,
    lse: Vec<f64>,
    delta: Vec<f64>,
    /// The gradients of queries, and the contributions of each query head to those of keys and values.
    d: [Vec<f64>; 3],
    /// The sums of squares of the terms of these sums.
    squares: [Vec<f64>; 3],
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], weight: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += weight * x);
}

fn reference(c: &Case, packed: &Packed, [q, k, v, d_o]: &Inputs<f64>) -> Want {
    let (dim, scale, cap) = (c.dim, f64::from(c.scale()), f64::from(c.softcap));
    let mut want = Want::default();
    want.o = vec![0.0; q.len()];
    want.d = std::array::from_fn(|_| vec![0.0; q.len()]);
    want.squares = want.d.clone();
    for (row, keys) in packed.seen(c.window).into_iter().enumerate() {
        for head in 0..c.heads {
            let at = |row: usize| (row * c.heads + head) * dim;
            let kv = |row: usize| (row * c.kv_heads + head / (c.heads / c.kv_heads)) * dim;
            let (own, slope) = (&q[at(row)..][..dim], &d_o[at(row)..][..dim]);
            let scores: Vec<f64> = keys
                .iter()
                .map(|key| scale * dot(own, &k[kv(*key)..][..dim]))
                .map(|s| if cap > 0.0 { cap * (s / cap).tanh() } else { s })
                .collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let lse = most + scores.iter().map(|s| (s - most).exp()).sum::<f64>().ln();
            for (key, s) in keys.iter().zip(&scores) {
                add(&mut want.o[at(row)..][..dim], (s - lse).exp(), &v[kv(*key)..][..dim]);
            }
            let delta = dot(&want.o[at(row)..][..dim], slope);
            for (key, s) in keys.iter().zip(&scores) {
                let (p, bend) = ((s - lse).exp(), if cap > 0.0 { 1.0 - (s / cap).powi(2) } else { 1.0 });
                let ds = scale * p * bend * (dot(slope, &v[kv(*key)..][..dim]) - delta);
                let key_values = &k[kv(*key)..][..dim];
                for (i, (to, weight, x)) in
                    [(row, ds, key_values), (*key, ds, own), (*key, p, slope)].into_iter().enumerate()
                {
                    add(&mut want.d[i][at(to)..][..dim], weight, x);
                    let squares = &mut want.squares[i][at(to)..][..dim];
                    squares.iter_mut().zip(x).for_each(|(sum, x)| *sum += (weight * x).powi(2));
                }
            }
            want.lse.push(lse);
            want.delta.push(delta);
        }
    }
    want
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// Keys or values, with rows of NaN before them.
fn led<'a>(bench: &'a Bench, c: &Case, x: &[f32]) -> Buf<'a> {
    bench.input(c.kind, &[&vec![f32::NAN; LEAD * c.kv_heads * c.dim], x].concat(), 0)
}

/// `o` and log-sum-exps, in tiles of up to `most` queries.
fn forward(
    bench: &Bench,
    c: &Case,
    packed: &Packed,
    [q, k, v, _]: &Inputs<f32>,
    most: usize,
) -> [Vec<f32>; 2] {
    let (rows, pitch, tiles) = (packed.positions.len(), c.pitch(), packed.tiles(most, LEAD));
    let (q, k, v) = (bench.input(c.kind, q, 0), led(bench, c, k), led(bench, c, v));
    let (o, lse) = (bench.output(c.kind, rows * pitch, 0), bench.output(Kind::F32, rows * c.heads, 0));
    let at = bench.integers(&tiles);
    let args = args![q.at(), k.at(), v.at(), at.at(), o.at(), pitch, lse.at(),];
    c.launch(bench, "attention_forward", tiles.len() / 8, args);
    [trimmed(&format!("{c:?}"), &o.numbers(c.kind), c.width(), pitch), lse.numbers(Kind::F32)]
}

/// Gradients of queries, in tiles of up to `most`.
fn backward_q(
    bench: &Bench,
    c: &Case,
    packed: &Packed,
    x: &Inputs<f32>,
    want: &Want,
    most: usize,
) -> Vec<f32> {
    let (pitch, tiles) = (c.pitch(), packed.tiles(most, LEAD));
    let (q, k, v) = (bench.input(c.kind, &x[0], 0), led(bench, c, &x[1]), led(bench, c, &x[2]));
    let d_o = bench.input(c.kind, &padded(&x[3], c.width(), pitch), 0);
    let [lse, delta] = [&want.lse, &want.delta].map(|x| bench.input(Kind::F32, &narrow(x), 0));
    let (dq, at) = (bench.output(c.kind, x[0].len(), 0), bench.integers(&tiles));
    let args = args![q.at(), k.at(), v.at(), d_o.at(), pitch, lse.at(), delta.at(), at.at(), dq.at(),];
    c.launch(bench, "attention_backward_q", tiles.len() / 8, args);
    dq.numbers(c.kind)
}

/// The contributions to the gradients of keys and values.
fn backward_kv(bench: &Bench, c: &Case, packed: &Packed, x: &Inputs<f32>, want: &Want) -> [Vec<f32>; 2] {
    let pitch = c.pitch();
    let [q, k, v] = [0, 1, 2].map(|i| bench.input(c.kind, &x[i], 0));
    let d_o = bench.input(c.kind, &padded(&x[3], c.width(), pitch), 0);
    let [lse, delta] = [&want.lse, &want.delta].map(|x| bench.input(Kind::F32, &narrow(x), 0));
    let (tiles, positions) =
        (bench.integers(&packed.key_tiles), bench.bytes(bytemuck::cast_slice(&packed.positions)));
    let [dk, dv] = [(); 2].map(|()| bench.output(c.kind, x[0].len(), 0));
    let args = args![
        q.at(),
        k.at(),
        v.at(),
        d_o.at(),
        pitch,
        lse.at(),
        delta.at(),
        tiles.at(),
        positions.at(),
        dk.at(),
        dv.at(),
    ];
    c.launch(bench, "attention_backward_kv", packed.key_tiles.len() / 8, args);
    [dk.numbers(c.kind), dv.numbers(c.kind)]
}

/// Sums of `do·o`, where `o` is the output of the forward pass.
fn deltas(bench: &Bench, c: &Case, d_o: &[f32], o: &[f32]) {
    let (what, rows, pitch) = (format!("attention_delta {c:?}"), o.len() / c.width(), c.pitch());
    let (a, b) = (padded(d_o, c.width(), pitch), padded(o, c.width(), 2 * pitch - c.width()));
    let (a, b) = (bench.input(c.kind, &a, 0), bench.input(c.kind, &b, 0));
    let delta = bench.output(Kind::F32, rows * c.heads, 0);
    let args = args![a.at(), pitch, b.at(), 2 * pitch - c.width(), delta.at(), c.heads, c.dim];
    bench.run("attention", "attention_delta", c.kind, ([rows, 1], 128, 0), args);
    let (a, b) = (wide(d_o), wide(o));
    let want: Vec<f64> = a.chunks(c.dim).zip(b.chunks(c.dim)).map(|(a, b)| dot(a, b)).collect();
    near_size(&what, Kind::F32, &delta.numbers(Kind::F32), &want, 1, 30.0, (c.dim as f64).sqrt());
}

fn inputs(bench: &Bench, c: &Case, rows: usize) -> Inputs<f32> {
    [(c.heads, 2.0), (c.kv_heads, 1.0), (c.kv_heads, 1.0), (c.heads, 1.0)]
        .map(|(heads, spread)| bench.rounded(c.kind, rows * heads * c.dim, spread))
}

fn case(bench: &Bench, c: Case) {
    let (what, packed) = (format!("attention {c:?}"), Packed::new(c.trees));
    let x = inputs(bench, &c, packed.positions.len());
    let want = reference(&c, &packed, &x.each_ref().map(|x| wide(x)));
    let [o, lse] = forward(bench, &c, &packed, &x, 64);
    near(&format!("{what} o"), c.kind, &o, &want.o, c.dim, c.places());
    near_size(&format!("{what} lse"), Kind::F32, &lse, &want.lse, 1, 16.0, 10.0);
    deltas(bench, &c, &x[3], &o);
    let dq = backward_q(bench, &c, &packed, &x, &want, 64);
    let [dk, dv] = backward_kv(bench, &c, &packed, &x, &want);
    // A row that sees only itself has no gradient; differences of numbers near √dim remain, scaled.
    let least = if c.mma.is_some() { 0.02 } else { 4.0 };
    for (i, (name, found)) in [("dq", &dq), ("dk", &dk), ("dv", &dv)].into_iter().enumerate() {
        let rows = want.d[i].chunks(c.dim).zip(want.squares[i].chunks(c.dim));
        for (row, (found, (want, squares))) in found.chunks(c.dim).zip(rows).enumerate() {
            let size = squares.iter().fold(least, |size: f64, sum| size.max(sum.sqrt()));
            near_size(&format!("{what} {name} {row}"), c.kind, found, want, c.dim, c.places(), size);
        }
    }
    let again = forward(bench, &c, &packed, &x, 17);
    let dq_again = backward_q(bench, &c, &packed, &x, &want, 17);
    for (name, found, first) in [("o", &again[0], &o), ("lse", &again[1], &lse), ("dq", &dq_again, &dq)] {
        same(&format!("{what} {name} in other tiles"), &encode(Kind::F32, found), &encode(Kind::F32, first));
    }
}

/// The bits of a tree do not depend on the trees before it.
fn alone(bench: &Bench, c: Case) {
    let (packed, tree) = (Packed::new(c.trees), Packed::new(&c.trees[c.trees.len() - 1..]));
    let first = packed.positions.len() - tree.positions.len();
    let x = inputs(bench, &c, packed.positions.len());
    let want = reference(&c, &packed, &x.each_ref().map(|x| wide(x)));
    let own: Inputs<f32> = x.each_ref().map(|x| x[x.len() / packed.positions.len() * first..].to_vec());
    let [lse, delta] = [&want.lse, &want.delta].map(|x| x[first * c.heads..].to_vec());
    let own_want = Want { lse, delta, ..Want::default() };
    let run = |packed: &Packed, x: &Inputs<f32>, want: &Want| {
        let [o, lse] = forward(bench, &c, packed, x, 64);
        let [dk, dv] = backward_kv(bench, &c, packed, x, want);
        [o, lse, backward_q(bench, &c, packed, x, want, 64), dk, dv]
    };
    for (all, own) in run(&packed, &x, &want).iter().zip(run(&tree, &own, &own_want)) {
        let all = &all[all.len() - own.len()..];
        same(&format!("attention {c:?} alone"), &encode(Kind::F32, all), &encode(Kind::F32, &own));
    }
}

fn plain(kind: Kind, (heads, kv_heads, dim): (usize, usize, usize), window: usize, softcap: f32) -> Case {
    Case { kind, mma: None, heads, kv_heads, dim, window, softcap, trees: SIBLINGS }
}

fn mma(shape: (usize, usize, usize), window: usize, softcap: f32) -> Case {
    let padded = [64, 96, 128, 256].into_iter().find(|padded| shape.2 <= *padded);
    Case { mma: padded, ..plain(Kind::Bf16, shape, window, softcap) }
}

pub fn some(bench: &Bench) {
    for kind in KINDS {
        case(bench, Case { trees: SHORT, ..plain(kind, (2, 1, 20), 5, 2.0) });
    }
    for dim in [40, 80, 128, 256] {
        case(bench, Case { trees: SHORT, ..mma((2, 1, dim), 0, 0.0) });
    }
    case(bench, Case { trees: &[(70, &[3])], ..mma((1, 1, 64), 0, 30.0) });
}

#[test]
fn attention_in_plain_arithmetic() {
    let Some(bench) = Bench::new("attention") else { return };
    for kind in KINDS {
        case(&bench, plain(kind, (7, 1, 8), 0, 0.0));
        case(&bench, plain(kind, (2, 2, 20), 5, 0.0));
    }
    case(&bench, plain(Kind::F32, (1, 1, 20), 5, 2.0));
    case(&bench, plain(Kind::F32, (4, 1, 64), 0, 30.0));
    for (dim, window, softcap) in [(80, 5, 30.0), (96, 0, 0.0), (128, 66, 0.0), (256, 0, 30.0)] {
        case(&bench, plain(Kind::F32, (1, 1, dim), window, softcap));
    }
}

#[test]
fn attention_on_tensor_cores() {
    let Some(bench) = Bench::new("attention mma") else { return };
    for (shape, window, softcap) in [
        ((7, 1, 8), 0, 0.0),
        ((4, 1, 64), 0, 30.0),
        ((2, 2, 64), 5, 0.0),
        ((1, 1, 80), 5, 2.0),
        ((4, 1, 96), 0, 0.0),
        ((2, 1, 128), 66, 30.0),
        ((1, 1, 128), 0, 0.0),
        ((1, 1, 256), 5, 0.0),
        ((2, 1, 256), 0, 30.0),
    ] {
        case(&bench, mma(shape, window, softcap));
    }
}

#[test]
fn trees_do_not_meet() {
    let Some(bench) = Bench::new("attention alone") else { return };
    let trees: &[Tree] = &[(10, &[5]), (90, &[70, 21])];
    for kind in KINDS {
        alone(&bench, Case { trees, ..plain(kind, (2, 1, 20), 40, 5.0) });
    }
    for (dim, window, softcap) in [(64, 70, 5.0), (64, 0, 0.0), (96, 40, 0.0), (128, 0, 5.0), (256, 66, 0.0)]
    {
        alone(&bench, Case { trees, ..mma((2, 1, dim), window, softcap) });
    }
}

/// The formulas compared with finite differences of the forward pass.
#[test]
fn gradients_are_those_of_attention() {
    let Some(bench) = Bench::new("attention differences") else { return };
    let c = Case { trees: &[(3, &[2, 2])], ..plain(Kind::F32, (2, 2, 3), 3, 2.0) };
    let packed = Packed::new(c.trees);
    let x = inputs(&bench, &c, packed.positions.len()).each_ref().map(|x| wide(x));
    let want = reference(&c, &packed, &x);
    for (which, d) in want.d.iter().enumerate() {
        for (i, d) in d.iter().enumerate() {
            let at = |step: f64| {
                let mut x = x.clone();
                x[which][i] += step;
                dot(&reference(&c, &packed, &x).o, &x[3])
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((d - slope).abs() < 1e-7, "{which} {i}: {d}, not {slope}");
        }
    }
}
