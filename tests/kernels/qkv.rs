//! Tests `qkv.cu`: norms of runs of numbers near 1, rotated. Each operation is off by half a place, and so are the sums
//! of a run.

use dpo_lora::device::{Arg, Kind};

use crate::args;
use crate::bench::{Bench, Buf, KINDS, at, near, padded, picked, same_row, trimmed, wide};
use crate::norm::{norm, slope};

/// The tolerances in halves of a last place of the largest number of a row, forward and backward.
const PLACES: [f64; 2] = [80.0, 160.0];
/// Large, so that a wrong value is detected.
const EPS: [f32; 2] = [0.02, 0.05];

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    per_head: bool,
    halves: [usize; 2],
    interleaved: bool,
    norm: i32,
    after: bool,
    runs: Runs,
    bias: bool,
    clip: f32,
    pad: usize,
    shift: usize,
    /// k, v and angles are in rows of their own.
    scattered: bool,
    /// The number of blocks; 0 chooses the best.
    blocks: usize,
}

/// Which numbers are normed together, and how many gains there are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Runs {
    Heads,
    HeadsWithGains,
    All,
    /// All heads together, with the gains of one.
    AllWithFewGains,
}

/// Queries or keys: their norm and their angles.
struct Part {
    size: usize,
    gain: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    rows: Vec<u32>,
}

impl Part {
    fn new(bench: &Bench, c: &Case, part: usize) -> Self {
        let heads = [c.heads, c.kv_heads][part];
        let (size, gains) = match c.runs {
            Runs::Heads => (c.dim, c.dim),
            Runs::HeadsWithGains => (c.dim, heads * c.dim),
            Runs::All => (heads * c.dim, heads * c.dim),
            Runs::AllWithFewGains => (heads * c.dim, c.dim),
        };
        let (half, tables) = (c.halves[part], c.rows + 5);
        let angles: Vec<f32> = bench.normal(tables * half, 3.0);
        let row = |i: usize| if c.scattered { bench.below(tables) } else { i } as u32;
        Self {
            size,
            gain: bench.normal(gains, 1.0),
            bias: bench.normal(gains, 1.0),
            eps: EPS[part],
            half,
            cos: angles.iter().map(|x| x.cos()).collect(),
            sin: angles.iter().map(|x| x.sin()).collect(),
            rows: (0..c.rows).map(row).collect(),
        }
    }

    /// Rotates a row's heads, or rotates them back.
    fn turn(&self, c: &Case, row: usize, x: &mut [f64], direction: f64) {
        let from = self.rows[row] as usize * self.half;
        for head in x.chunks_mut(c.dim) {
            for i in 0..self.half {
                let (a, b) = if c.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.half) };
                let (cos, sin) = (f64::from(self.cos[from + i]), direction * f64::from(self.sin[from + i]));
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
    }

    /// Applies f(run, gains, biases) to all runs.
    fn by_runs(&self, x: &[f64], f: impl Fn(usize, &[f64], &[f64], &[f64]) -> Vec<f64>) -> Vec<f64> {
        let (gains, size) = (self.gain.len(), self.size);
        let of = |values: &[f32], run: usize| -> Vec<f64> {
            (run * size..(run + 1) * size).map(|column| f64::from(values[column % gains])).collect()
        };
        let run = |(run, x): (usize, &[f64])| f(run * size, x, &of(&self.gain, run), &of(&self.bias, run));
        x.chunks(size).enumerate().flat_map(run).collect()
    }

    fn forward(&self, c: &Case, row: usize, mut x: Vec<f64>) -> Vec<f64> {
        let normed = |x: &[f64]| {
            self.by_runs(x, |_, x, gain, bias| norm(x, c.norm, gain, (c.norm == 2).then_some(bias), self.eps))
        };
        if !c.after {
            x = normed(&x);
        }
        self.turn(c, row, &mut x, 1.0);
        if c.after { normed(&x) } else { x }
    }

    fn backward(&self, c: &Case, row: usize, mut x: Vec<f64>, mut d: Vec<f64>) -> Vec<f64> {
        if c.after {
            self.turn(c, row, &mut x, 1.0);
        } else {
            self.turn(c, row, &mut d, -1.0);
        }
        let mut d = self.by_runs(&x, |at, x, gain, _| slope(x, &d[at..][..x.len()], c.norm, gain, self.eps));
        if c.after {
            self.turn(c, row, &mut d, -1.0);
        }
        d
    }
}

/// Computes a row with all its operations.
struct Model {
    c: Case,
    bias: Vec<f32>,
    parts: [Part; 2],
}

impl Model {
    fn width(&self) -> usize {
        (self.c.heads + 2 * self.c.kv_heads) * self.c.dim
    }

    /// The column of y for each column of q|k|v.
    fn columns(&self) -> Vec<usize> {
        let Case { heads, kv_heads, dim, per_head, .. } = self.c;
        let group = heads / kv_heads;
        let slot = |head: usize| match (per_head, head < heads) {
            (false, _) => head,
            (true, true) => head / group * (group + 2) + head % group,
            (true, false) => (head - heads) % kv_heads * (group + 2) + group + (head - heads) / kv_heads,
        };
        (0..heads + 2 * kv_heads).flat_map(|head| (0..dim).map(move |i| slot(head) * dim + i)).collect()
    }

    /// Returns queries, keys and values before norms and rotation, and whether each column of y was within the clip.
    fn projected(&self, y: &[f64]) -> ([Vec<f64>; 3], Vec<bool>) {
        let clip = if self.c.clip > 0.0 { f64::from(self.c.clip) } else { f64::INFINITY };
        let z: Vec<f64> =
            y.iter().enumerate().map(|(j, y)| y + self.bias.get(j).map_or(0.0, |b| f64::from(*b))).collect();
        let mixed: Vec<f64> = self.columns().into_iter().map(|j| z[j].clamp(-clip, clip)).collect();
        let (q, kv) = mixed.split_at(self.c.heads * self.c.dim);
        let (k, v) = kv.split_at(self.c.kv_heads * self.c.dim);
        ([q.to_vec(), k.to_vec(), v.to_vec()], z.iter().map(|z| z.abs() <= clip).collect())
    }

    fn forward(&self, row: usize, y: &[f64]) -> [Vec<f64>; 3] {
        let ([q, k, v], _) = self.projected(y);
        [self.parts[0].forward(&self.c, row, q), self.parts[1].forward(&self.c, row, k), v]
    }

    /// Returns the gradient of y, given those of q, k and v.
    fn backward(&self, row: usize, y: &[f64], [dq, dk, dv]: [Vec<f64>; 3]) -> Vec<f64> {
        let ([q, k, _], inside) = self.projected(y);
        let dq = self.parts[0].backward(&self.c, row, q, dq);
        let dk = self.parts[1].backward(&self.c, row, k, dk);
        let mut dy = vec![0.0; y.len()];
        for (column, d) in self.columns().into_iter().zip([dq, dk, dv].concat()) {
            dy[column] = if inside[column] { d } else { 0.0 };
        }
        dy
    }
}

/// The model's vectors and tables on the device, in the order of the arguments.
struct Placed<'a> {
    bias: Option<Buf<'a>>,
    norms: Vec<[Option<Buf<'a>>; 2]>,
    angles: Vec<[Option<Buf<'a>>; 2]>,
}

impl<'a> Placed<'a> {
    fn new(bench: &'a Bench, m: &Model) -> Self {
        let put = |used: bool, values: &[f32]| used.then(|| bench.input(Kind::F32, values, m.c.shift));
        let norm = m.c.norm;
        Self {
            bias: put(m.c.bias, &m.bias),
            norms: m.parts.iter().map(|p| [put(norm != 0, &p.gain), put(norm == 2, &p.bias)]).collect(),
            angles: m.parts.iter().map(|p| [put(p.half != 0, &p.cos), put(p.half != 0, &p.sin)]).collect(),
        }
    }

    fn args(&self, m: &Model, rows: [Option<&Buf>; 2]) -> Vec<Arg> {
        let (c, mut all) = (&m.c, args![at(self.bias.as_ref()), m.c.clip].to_vec());
        for (part, [gain, bias]) in m.parts.iter().zip(&self.norms) {
            all.extend(args![at(gain.as_ref()), at(bias.as_ref()), part.eps, part.size, part.gain.len()]);
        }
        all.extend(args![c.norm, i32::from(c.after)]);
        for (part, [cos, sin]) in m.parts.iter().zip(&self.angles) {
            all.extend(args![at(cos.as_ref()), at(sin.as_ref()), part.half]);
        }
        all.extend(args![at(rows[0]), at(rows[1]), i32::from(c.interleaved)]);
        all.extend(args![c.heads, c.kv_heads, c.dim, i32::from(c.per_head)]);
        all
    }
}

/// The name and geometry of a kernel.
fn launched(m: &Model, name: &str, rows: usize, at_once: usize) -> (String, ([usize; 2], usize, usize)) {
    let (block, middle) = if m.c.norm == 0 { (128, "") } else { (256, "norm_") };
    let items = rows.div_ceil(at_once) * m.width() / 16;
    let best = if m.c.dim.is_multiple_of(16) { items.div_ceil(block) } else { rows };
    let blocks = if m.c.blocks == 0 { best } else { m.c.blocks };
    (format!("qkv_{middle}{name}"), ([blocks, 1], block, 4 * m.width()))
}

/// The angles of some rows.
fn angle_rows<'a>(bench: &'a Bench, m: &Model, sel: &[usize]) -> [Option<Buf<'a>>; 2] {
    let needed = m.c.scattered || sel.len() < m.c.rows;
    let put = |rows: &[u32]| needed.then(|| bench.bytes(bytemuck::cast_slice(&picked(rows, 1, sel))));
    m.parts.each_ref().map(|part| put(&part.rows))
}

fn forward(bench: &Bench, m: &Model, placed: &Placed, y: &[f32]) {
    let (c, width, what) = (&m.c, m.width(), format!("qkv_forward {:?}", m.c));
    let ldy = width + c.pad;
    let kv_rows: Vec<u32> =
        (0..c.rows as u32).map(|i| if c.scattered { c.rows as u32 + 1 - i } else { i }).collect();
    let widths = [c.heads, c.kv_heads, c.kv_heads].map(|heads| heads * c.dim);
    let run = |sel: &[usize]| {
        let from = bench.input(c.kind, &padded(&picked(y, width, sel), width, ldy), c.shift);
        let to_rows = bench.bytes(bytemuck::cast_slice(&picked(&kv_rows, 1, sel)));
        let to_rows = (c.scattered || sel.len() < c.rows).then_some(to_rows);
        let angle_rows = angle_rows(bench, m, sel);
        let outs: [Buf; 3] = std::array::from_fn(|i| {
            bench.output(c.kind, widths[i] * if i == 0 { sel.len() } else { c.rows + 2 }, c.shift)
        });
        let mut args = args![from.at(), ldy].to_vec();
        args.extend(placed.args(m, angle_rows.each_ref().map(Option::as_ref)));
        args.extend(args![at(to_rows.as_ref()), outs[0].at(), outs[1].at(), outs[2].at(), sel.len()]);
        let at_once = if c.kind == Kind::Bf16 && c.norm == 0 { 2 } else { 1 };
        let (name, geometry) = launched(m, "forward", sel.len(), at_once);
        bench.run("qkv", &name, c.kind, geometry, &args);
        let places: Vec<usize> = picked(&kv_rows, 1, sel).iter().map(|row| *row as usize).collect();
        std::array::from_fn::<_, 3, _>(|i| {
            let numbers = outs[i].numbers(c.kind);
            if i == 0 { numbers } else { picked(&numbers, widths[i], &places) }
        })
    };
    let (all, row) = (run(&(0..c.rows).collect::<Vec<_>>()), c.rows / 2);
    let alone = run(&[row]);
    let mut want: [Vec<f64>; 3] = Default::default();
    for (i, y) in y.chunks(width).enumerate() {
        want.iter_mut().zip(m.forward(i, &wide(y))).for_each(|(all, row)| all.extend(row));
    }
    for i in 0..3 {
        let what = format!("{what} {}", ["q", "k", "v"][i]);
        same_row(&what, bytemuck::cast_slice(&all[i]), bytemuck::cast_slice(&alone[i]), row);
        near(&what, c.kind, &all[i], &want[i], widths[i], PLACES[0]);
    }
}

/// Sums the contributions of the query heads of each key head.
fn summed(c: &Case, parts: &[f32]) -> Vec<f64> {
    let group = c.heads / c.kv_heads * c.dim;
    parts
        .chunks(group)
        .flat_map(|parts| {
            (0..c.dim).map(|i| parts[i..].iter().step_by(c.dim).map(|x| f64::from(*x)).sum::<f64>())
        })
        .collect()
}

fn backward(bench: &Bench, m: &Model, placed: &Placed, y: &[f32]) {
    let (c, width, what) = (&m.c, m.width(), format!("qkv_backward {:?}", m.c));
    let (ldy, lddy, q_width) = (width + c.pad, width + 2 * c.pad, c.heads * c.dim);
    let d: [Vec<f32>; 3] = std::array::from_fn(|_| bench.rounded(c.kind, c.rows * q_width, 1.0));
    let run = |sel: &[usize]| {
        let from: [Buf; 3] = d.each_ref().map(|d| bench.input(c.kind, &picked(d, q_width, sel), c.shift));
        let needed = c.norm != 0 || c.clip > 0.0;
        let y = needed.then(|| bench.input(c.kind, &padded(&picked(y, width, sel), width, ldy), c.shift));
        let angle_rows = angle_rows(bench, m, sel);
        let dy = bench.output(c.kind, sel.len() * lddy, c.shift);
        let mut args = args![from[0].at(), from[1].at(), from[2].at(), at(y.as_ref()), ldy].to_vec();
        args.extend(placed.args(m, angle_rows.each_ref().map(Option::as_ref)));
        args.extend(args![dy.at(), lddy, sel.len()]);
        let (name, geometry) = launched(m, "backward", sel.len(), 1);
        bench.run("qkv", &name, c.kind, geometry, &args);
        (dy.read(), dy.numbers(c.kind))
    };
    let (all, row) = (run(&(0..c.rows).collect::<Vec<_>>()), c.rows / 2);
    same_row(&what, &all.0, &run(&[row]).0, row);
    let mut want = Vec::new();
    for (i, y) in y.chunks(width).enumerate() {
        let d = d.each_ref().map(|d| &d[i * q_width..][..q_width]);
        let d = [wide(d[0]), summed(c, d[1]), summed(c, d[2])];
        let row = m.backward(i, &wide(y), d.clone());
        if width <= 40 && i == 0 {
            differences(m, &wide(y), &d, &row);
        }
        want.extend(row);
    }
    near(&what, c.kind, &trimmed(&what, &all.1, width, lddy), &want, width, PLACES[1]);
}

/// The formula compared with finite differences of the forward pass.
fn differences(m: &Model, y: &[f64], d: &[Vec<f64>; 3], found: &[f64]) {
    for j in 0..y.len() {
        let at = |step: f64| {
            let mut y = y.to_vec();
            y[j] += step;
            let out = m.forward(0, &y).concat();
            out.iter().zip(d.concat()).map(|(x, d)| x * d).sum::<f64>()
        };
        let want = (at(1e-6) - at(-1e-6)) / 2e-6;
        assert!(
            (found[j] - want).abs() < 1e-5 * want.abs().max(1.0),
            "{:?} {j}: {}, not {want}",
            m.c,
            found[j]
        );
    }
}

fn case(bench: &Bench, c: Case) {
    let mut m = Model { c, bias: Vec::new(), parts: [Part::new(bench, &c, 0), Part::new(bench, &c, 1)] };
    if c.bias {
        m.bias = bench.normal(m.width(), 1.0);
    }
    let y = bench.rounded(c.kind, c.rows * m.width(), 1.5);
    let placed = Placed::new(bench, &m);
    forward(bench, &m, &placed, &y);
    backward(bench, &m, &placed, &y);
}

fn plain(kind: Kind, rows: usize, (heads, kv_heads, dim): (usize, usize, usize)) -> Case {
    Case {
        kind,
        rows,
        heads,
        kv_heads,
        dim,
        per_head: false,
        halves: [dim / 2; 2],
        interleaved: false,
        norm: 0,
        after: false,
        runs: Runs::Heads,
        bias: false,
        clip: 0.0,
        pad: 8,
        shift: 0,
        scattered: false,
        blocks: 0,
    }
}

/// Norms of every kind and place.
const NORMS: [(i32, bool, Runs); 8] = [
    (0, false, Runs::Heads),
    (1, false, Runs::Heads),
    (1, true, Runs::Heads),
    (2, false, Runs::HeadsWithGains),
    (2, true, Runs::All),
    (1, true, Runs::AllWithFewGains),
    (1, false, Runs::All),
    (2, false, Runs::Heads),
];

/// Every norm with every layout and pairing: by rows and by items, with and without every optional argument.
fn small(bench: &Bench, kind: Kind) {
    for (per_head, interleaved) in [(false, false), (false, true), (true, false), (true, true)] {
        for (i, (norm, after, runs)) in NORMS.into_iter().enumerate() {
            let with = |c: Case| Case { per_head, interleaved, norm, after, runs, ..c };
            let odd = with(plain(kind, 3, (2, 1, 10)));
            case(bench, Case { halves: [3, 5], bias: true, clip: 1.0, pad: 3, scattered: true, ..odd });
            case(bench, Case { bias: i % 2 == 1, ..with(plain(kind, 5, (4, 2, 16))) });
            let part = with(plain(kind, 3, (4, 2, 16)));
            case(
                bench,
                Case { halves: [4, 0], bias: true, clip: 1.2, pad: 0, scattered: true, shift: 1, ..part },
            );
            case(
                bench,
                Case {
                    halves: [8, 0],
                    clip: 1.2,
                    scattered: true,
                    blocks: 1 + i,
                    ..with(plain(kind, 3, (2, 2, 64)))
                },
            );
        }
    }
}

pub fn some(bench: &Bench) {
    for (norm, after, runs) in NORMS {
        let c = Case { norm, after, runs, clip: 2.0, bias: true, ..plain(Kind::F32, 3, (4, 1, 64)) };
        case(bench, c);
        case(bench, Case { kind: Kind::Bf16, interleaved: true, pad: 3, dim: 20, halves: [10, 4], ..c });
    }
}

#[test]
fn queries_keys_and_values_of_small_heads() {
    let Some(bench) = Bench::new("qkv small") else { return };
    KINDS.into_iter().for_each(|kind| small(&bench, kind));
}

#[test]
fn queries_keys_and_values_of_models() {
    let Some(bench) = Bench::new("qkv") else { return };
    for kind in KINDS {
        for per_head in [false, true] {
            let with = |rows, shape| Case { per_head, ..plain(kind, rows, shape) };
            case(&bench, Case { bias: true, pad: 0, scattered: true, ..with(3, (14, 2, 64)) });
            case(&bench, Case { bias: true, interleaved: true, ..with(4, (14, 2, 64)) });
            case(&bench, Case { norm: 1, pad: 0, scattered: true, ..with(3, (16, 8, 128)) });
            case(&bench, Case { norm: 1, runs: Runs::All, pad: 0, ..with(2, (16, 16, 128)) });
            let long =
                Case { norm: 2, runs: Runs::All, bias: true, halves: [64, 32], ..with(2, (16, 4, 128)) };
            case(&bench, long);
            case(&bench, Case { after: true, clip: 2.0, ..long });
            case(&bench, Case { norm: 2, halves: [20; 2], bias: true, pad: 0, ..with(2, (32, 8, 80)) });
            let gains = Case {
                norm: 2,
                after: true,
                runs: Runs::HeadsWithGains,
                bias: true,
                clip: 2.0,
                ..with(2, (8, 8, 64))
            };
            case(&bench, Case { interleaved: true, halves: [12; 2], pad: 0, ..gains });
            case(&bench, Case { norm: 1, ..with(2, (8, 1, 256)) });
            case(&bench, Case { halves: [128, 64], ..with(1, (4, 1, 256)) });
        }
        case(&bench, Case { norm: 1, scattered: true, ..plain(kind, 300, (3, 1, 8)) });
        case(&bench, Case { scattered: true, blocks: 3, ..plain(kind, 300, (7, 1, 16)) });
        case(&bench, Case { norm: 1, blocks: 1, ..plain(kind, 37, (4, 1, 16)) });
        case(&bench, Case { clip: 6.0, pad: 0, ..plain(kind, 1, (8, 8, 96)) });
        case(&bench, plain(kind, 7, (7, 1, 20)));
    }
}
