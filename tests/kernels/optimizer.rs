//! Tests `optimizer.cu`: the same bits as the optimizers on the processor, step by step.

use dpo_lora::device::{Arg, Kind};
use dpo_lora::train::optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
use dpo_lora::trainable::Store;

use crate::args;
use crate::bench::{Bench, Buf, encode, same};

const LR: f64 = 1e-3;

fn config(kind: OptimizerKind, (beta1, beta2, weight_decay): (f64, f64, f64)) -> OptimizerConfig {
    OptimizerConfig { kind, beta1, beta2, epsilon: 1e-6, weight_decay, ..OptimizerConfig::default() }
}

/// The scalars of a step, each computed in f64 and rounded once.
fn scalars(c: &OptimizerConfig, step: i32) -> Vec<Arg> {
    let (decay, minus_lr) = (c.weight_decay as f32, -LR as f32);
    match c.kind {
        OptimizerKind::AdamW => args![
            (1.0 - LR * c.weight_decay) as f32,
            (1.0 - c.beta1) as f32,
            c.beta2 as f32,
            (1.0 - c.beta2) as f32,
            c.epsilon as f32,
            -(LR / (1.0 - c.beta1.powi(step))) as f32,
            (1.0 - c.beta2.powi(step)).sqrt() as f32,
        ]
        .to_vec(),
        OptimizerKind::RmsProp | OptimizerKind::Sgd => args![decay, minus_lr].to_vec(),
        other => panic!("{other:?} has no kernel"),
    }
}

fn name(kind: OptimizerKind) -> &'static str {
    match kind {
        OptimizerKind::AdamW => "adamw",
        OptimizerKind::RmsProp => "rmsprop",
        OptimizerKind::Sgd => "sgd",
        other => panic!("{other:?} has no kernel"),
    }
}

fn steps(bench: &Bench, c: &OptimizerConfig, n: usize, shift: usize, clip: f32) {
    let what = format!("{c:?} {n} {shift} {clip}");
    let mut want = Store::default();
    want.add("a".into(), vec![n]);
    want.update(|values| values.copy_from_slice(&bench.normal(n, 1.0)));
    let mut optimizer = Optimizer::new(c, &mut want);
    let parameters = bench.changing(Kind::F32, want.values(), shift);
    let zeros = want.moments().iter().map(|moment| bench.changing(Kind::F32, moment.values.f32s(), shift));
    let moments: Vec<Buf> = zeros.collect();
    for step in 1..4 {
        let gradient = bench.normal(n, 0.1);
        want.clear_gradient();
        want.update_gradient(|clipped| clipped.iter_mut().zip(&gradient).for_each(|(to, g)| *to = g * clip));
        optimizer.step(&mut want, LR).unwrap();
        let gradient = bench.input(Kind::F32, &gradient, shift);
        let mut args = args![parameters.at(), gradient.at()].to_vec();
        args.extend(moments.iter().map(|moment| Arg::from(moment.at())));
        args.extend(args![n as u64, clip]);
        args.extend(scalars(c, step));
        bench.launch("optimizer", name(c.kind), ([n.div_ceil(1024), 1], 256, 0), &args);
        same(&what, &parameters.read(), &encode(Kind::F32, want.values()));
        for (moment, want) in moments.iter().zip(want.moments()) {
            same(&format!("{what} {}", want.name), &moment.read(), &encode(Kind::F32, want.values.f32s()));
        }
    }
}

/// Partial sums in f64, up to the order of their additions.
fn squares(bench: &Bench, n: usize, shift: usize) {
    let values = bench.normal(n, 1.0);
    let chunks = n.div_ceil(16_384);
    let sums = |values: &[f32]| {
        let (from, to) =
            (bench.input(Kind::F32, values, shift), bench.changing(Kind::F32, &vec![0.0; 2 * chunks], 0));
        bench.launch("optimizer", "square_sums", ([chunks, 1], 256, 0), args![from.at(), n as u64, to.at()]);
        let bytes = to.read();
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
    };
    for (chunk, found) in values.chunks(16_384).zip(sums(&values)) {
        let want: f64 = chunk.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((found - want).abs() <= 1e-13 * want, "{n} {shift}: {found}, not {want}");
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = values.clone();
        values[n - 1] = bad;
        let last = *sums(&values).last().unwrap();
        assert_eq!((last.is_nan(), last.is_finite()), (bad.is_nan(), false));
    }
}

const KINDS: [OptimizerKind; 3] = [OptimizerKind::AdamW, OptimizerKind::RmsProp, OptimizerKind::Sgd];

pub fn some(bench: &Bench) {
    KINDS.into_iter().for_each(|kind| steps(bench, &config(kind, (0.9, 0.999, 0.1)), 1030, 0, 0.5));
    squares(bench, 20_001, 0);
}

#[test]
fn steps_are_those_of_the_processor() {
    let Some(bench) = Bench::new("optimizer") else { return };
    for kind in KINDS {
        for (n, shift) in [(1, 0), (7, 1), (1023, 0), (1024, 1), (20_001, 0), (5000, 1)] {
            steps(&bench, &config(kind, (0.9, 0.999, 0.01)), n, shift, 1.0);
            // For a weight of 0.5 or more the average has another form.
            steps(&bench, &config(kind, (0.2, 0.95, 0.0)), n, shift, 0.37);
        }
    }
}

#[test]
fn squares_are_summed() {
    let Some(bench) = Bench::new("squares") else { return };
    for (n, shift) in [(1, 0), (7, 1), (16_384, 0), (16_385, 1), (50_001, 0)] {
        squares(&bench, n, shift);
    }
}
