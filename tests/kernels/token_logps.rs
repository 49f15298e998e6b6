//! Tests `token_logps.cu`. Log-probs are differences of logits and are off by places of the largest one. Weights are
//! probabilities and are off by places of their exponents.

use dpo_lora::device::Kind;

use crate::args;
use crate::bench::{Bench, F32, KINDS, at, near, near_size, padded, picked, same, same_row, trimmed};

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    rows: usize,
    vocab: usize,
    scale: f32,
    softcap: f32,
    bias: bool,
    pad: usize,
    shift: usize,
    spread: f32,
}

/// Returns l and its slope.
fn shaped(c: &Case, z: f32, bias: Option<f32>) -> (f64, f64) {
    let s = f64::from(c.scale) * (f64::from(z) + bias.map_or(0.0, f64::from));
    let cap = f64::from(c.softcap);
    if cap > 0.0 { (cap * (s / cap).tanh(), 1.0 - (s / cap).tanh().powi(2)) } else { (s, 1.0) }
}

/// Returns the log-prob of a row's target, and its weights.
fn logp(c: &Case, row: &[f32], bias: Option<&[f32]>, target: usize) -> (f64, Vec<f64>, Vec<f64>) {
    let (l, slope): (Vec<f64>, Vec<f64>) =
        row.iter().enumerate().map(|(j, z)| shaped(c, *z, bias.map(|bias| bias[j]))).unzip();
    let most = l.iter().copied().fold(f64::MIN, f64::max);
    let lse = most + l.iter().map(|l| (l - most).exp()).sum::<f64>().ln();
    let weight =
        |j: usize| f64::from(c.scale) * (f64::from(u8::from(j == target)) - (l[j] - lse).exp()) * slope[j];
    (l[target] - lse, (0..l.len()).map(weight).collect(), l)
}

fn case(bench: &Bench, c: Case) {
    let (what, vocab) = (format!("token_logps {c:?}"), c.vocab);
    let (z, bias) = (bench.normal(c.rows * vocab, c.spread), bench.normal(vocab, 1.0));
    let mut targets: Vec<u32> = (0..c.rows).map(|_| bench.below(vocab) as u32).collect();
    targets[0] = vocab as u32 - 1;
    let (ldl, ldw) = (vocab + c.pad, vocab + 2 * c.pad);
    let bias = c.bias.then_some(bias);
    let b = bias.as_ref().map(|bias| bench.input(Kind::F32, bias, 0));
    let run = |sel: &[usize], weighed: bool| {
        let z = bench.input(Kind::F32, &padded(&picked(&z, vocab, sel), vocab, ldl), c.shift);
        let targets = bench.bytes(bytemuck::cast_slice(&picked(&targets, 1, sel)));
        let (logps, weights) =
            (bench.output(Kind::F32, sel.len(), 0), bench.output(c.kind, sel.len() * ldw, c.shift));
        let args = args![
            z.at(),
            ldl,
            at(b.as_ref()),
            c.scale,
            c.softcap,
            targets.at(),
            logps.at(),
            at(weighed.then_some(&weights)),
            ldw,
            vocab,
        ];
        bench.run("token_logps", "token_logps", c.kind, ([sel.len(), 1], 1024, 0), args);
        (logps.read(), weights.read(), logps.numbers(Kind::F32), weights.numbers(c.kind))
    };
    let (every, row) = ((0..c.rows).collect::<Vec<_>>(), c.rows / 2);
    let (all, alone) = (run(&every, true), run(&[row], true));
    same_row(&what, &all.0, &alone.0, row);
    same_row(&what, &all.1, &alone.1, row);
    same(&what, &run(&[row], false).0, &alone.0);
    let weights = trimmed(&what, &all.3, vocab, ldw);
    let mut capped = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        let (want, want_weights, l) = logp(&c, &z[i * vocab..][..vocab], bias.as_deref(), *target as usize);
        let most = l.iter().fold(1.0f64, |most, l| most.max(l.abs()));
        let off = (f64::from(all.2[i]) - want).abs();
        assert!(off <= 16.0 * F32 * most, "{what}: row {i} is {}, not {want}", all.2[i]);
        // e^l is off by as many places as l is large.
        let (found, size) = (&weights[i * vocab..][..vocab], 0.03 * f64::from(c.scale));
        near_size(&what, c.kind, found, &want_weights, vocab, 16.0 + 2.0 * most, size);
        capped.extend(l);
    }
    let logits = bench.changing(Kind::F32, &padded(&z, vocab, ldl), c.shift);
    let args = args![logits.at(), ldl, at(b.as_ref()), c.scale, c.softcap, vocab];
    bench.launch("token_logps", "shape_logits", ([c.rows, 1], 256, 0), args);
    let found = logits.numbers(Kind::F32);
    assert!(
        found.chunks(ldl).all(|row| row[vocab..].iter().all(|x| x.is_nan())),
        "{what}: wrote behind the vocabulary"
    );
    let found =
        picked(&found.chunks(ldl).flat_map(|row| row[..vocab].to_vec()).collect::<Vec<_>>(), vocab, &every);
    near(&what, Kind::F32, &found, &capped, vocab, 16.0);
}

fn all_of(bench: &Bench, kind: Kind, rows: usize, vocab: usize) {
    for (scale, softcap) in [(1.0, 0.0), (0.25, 0.0), (1.0, 5.0), (0.5, 30.0)] {
        let plain = Case { kind, rows, vocab, scale, softcap, bias: false, pad: 0, shift: 0, spread: 3.0 };
        case(bench, plain);
        case(bench, Case { bias: true, pad: 8, ..plain });
        case(bench, Case { bias: softcap == 5.0, pad: 7, shift: 1, ..plain });
    }
}

pub fn some(bench: &Bench) {
    KINDS.into_iter().for_each(|kind| all_of(bench, kind, 1, 103));
}

#[test]
fn log_probs_and_their_gradients() {
    let Some(bench) = Bench::new("token_logps") else { return };
    for kind in KINDS {
        for (rows, vocab) in [(7, 7), (1, 36), (3, 1000), (1, 8200)] {
            all_of(&bench, kind, rows, vocab);
        }
        let plain = Case {
            kind,
            rows: 100,
            vocab: 36,
            scale: 1.0,
            softcap: 0.0,
            bias: false,
            pad: 4,
            shift: 0,
            spread: 3.0,
        };
        case(&bench, plain);
        case(&bench, Case { rows: 1, vocab: 50_257, pad: 7, ..plain });
        case(&bench, Case { rows: 2, vocab: 1000, spread: 40.0, ..plain });
    }
}

/// Far from zero, where e^l alone vanishes.
#[test]
fn logits_may_all_be_far_below_zero() {
    let Some(bench) = Bench::new("token_logps low") else { return };
    let (z, target) = (bench.input(Kind::F32, &[-500.0; 600], 0), bench.integers(&[599]));
    let (logp, weights) = (bench.output(Kind::F32, 1, 0), bench.output(Kind::F32, 600, 0));
    let args = args![z.at(), 600, at(None), 1.0f32, 0.0f32, target.at(), logp.at(), weights.at(), 600, 600];
    bench.run("token_logps", "token_logps", Kind::F32, ([1, 1], 1024, 0), args);
    near("log-prob", Kind::F32, &logp.numbers(Kind::F32), &[-(600f64.ln())], 1, 16.0);
    let want: Vec<f64> = (0..600).map(|j| f64::from(u8::from(j == 599)) - 1.0 / 600.0).collect();
    near("weights", Kind::F32, &weights.numbers(Kind::F32), &want, 600, 16.0);
}

#[test]
fn weights_are_the_gradient() {
    let z: Vec<f32> = (0..9).map(|i| (i * i % 5) as f32 - 1.5).collect();
    let c = Case {
        kind: Kind::F32,
        rows: 1,
        vocab: 9,
        scale: 0.5,
        softcap: 2.0,
        bias: false,
        pad: 0,
        shift: 0,
        spread: 1.0,
    };
    let (_, weights, _) = logp(&c, &z, None, 4);
    for i in 0..9 {
        let at = |step: f32| {
            let mut z = z.clone();
            z[i] += step;
            logp(&c, &z, None, 4).0
        };
        assert!((weights[i] - (at(0.0078125) - at(-0.0078125)) / 0.015625).abs() < 1e-4, "{i}");
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let Some(bench) = Bench::new("token_logps extremes") else { return };
    for (bad, is_nan) in [(f32::NAN, true), (f32::INFINITY, true), (f32::NEG_INFINITY, false)] {
        let mut z = bench.normal(5000, 1.0);
        z[4321] = bad;
        let (z, target) = (bench.input(Kind::F32, &z, 0), bench.integers(&[3]));
        let logp = bench.output(Kind::F32, 1, 0);
        let args = args![z.at(), 5000, at(None), 1.0f32, 0.0f32, target.at(), logp.at(), at(None), 0, 5000];
        bench.run("token_logps", "token_logps", Kind::F32, ([1, 1], 1024, 0), args);
        assert_eq!(logp.numbers(Kind::F32)[0].is_nan(), is_nan, "{bad}");
    }
}
