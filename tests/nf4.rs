//! A base quantised to NF4 on loading: the processor and a device compute with the same numbers.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::device::device;
use common::{Model, pack, random_lora, zero_b_lora};
use dpo_lora::data::{Example, Origin, PackedBatch};
use dpo_lora::model::decoder::{Decoder, Training};
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::pass::Pass;
use dpo_lora::weights::SafetensorsSource;

fn base() -> (Model, Model) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny-reviews/model");
    let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
    let source = SafetensorsSource::open(&directory).unwrap();
    let (quantised, outcome) = Decoder::load_in_4bit(spec.clone(), &source, None).unwrap();
    let share = outcome.loss.share();
    assert!((0.05..0.15).contains(&share) && outcome.kept == 0, "{outcome:?}");
    assert!(quantised.storage().contains("NF4"), "{}", quantised.storage());
    (quantised.into(), Decoder::load(spec, &source, None).unwrap().into())
}

fn batch() -> PackedBatch {
    let example = |first: u32| Example {
        prompt: vec![first, 7, 9],
        completions: vec![vec![4, 5, 6, 2], vec![8, 3]],
        kind: dpo_lora::data::Kind::PAIR,
        origin: Origin::new("test", 1),
    };
    pack(&[example(5), example(11)])
}

#[test]
fn quantised_projections_move_log_probs_a_little() {
    let (quantised, whole) = base();
    let found = quantised.logps(&batch(), Pass::Reference).unwrap();
    let want = whole.logps(&batch(), Pass::Reference).unwrap();
    assert_ne!(found, want);
    assert!(found.iter().zip(&want).all(|(f, w)| (f - w).abs() < 0.1 * w.abs()), "{found:?} {want:?}");
}

#[test]
fn a_device_computes_with_the_same_numbers() {
    let Some(device) = device() else { return };
    let (mut quantised, _) = base();
    quantised.train(random_lora(&quantised, 3));
    let pass = |decoder: &Model| {
        let (logps, tape) = decoder.forward(&batch(), Training::default()).unwrap();
        let mut gradient = vec![0.0; decoder.trained().values().len()];
        decoder.backward(tape, &batch(), &[0.3, -0.4, 0.2, -0.1], &mut gradient).unwrap();
        (logps, gradient)
    };
    let want = pass(&quantised);
    quantised.place_on(Some(device));
    let found = pass(&quantised);
    // Activations are rounded on both sides, to bf16 and to 8 bits.
    for (f, w) in found.0.iter().zip(&want.0) {
        assert!((f - w).abs() < 0.01 * w.abs(), "{f} {w}");
    }
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let apart =
        norm(&mut found.1.iter().zip(&want.1).map(|(f, w)| f - w)) / norm(&mut want.1.iter().copied());
    assert!(apart < 0.05, "{apart}");
    quantised.train(zero_b_lora(&quantised, 1));
    let both = [Pass::Policy, Pass::Reference].map(|pass| quantised.logps(&batch(), pass).unwrap());
    assert_eq!(both[0], both[1]);
}
