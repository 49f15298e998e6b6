//! The finished adapters in `adapters/` do what their pages say, and adapters are taken off models again.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "adapters/unmerged.rs"]
mod unmerged;

use std::path::PathBuf;

use common::{Model, adapt, ingest, json, pack};
use dpo_lora::adapter::{fingerprint, peft};
use dpo_lora::data::{ChatTokenizer, Example, Origin, Sources, Truncation, records, source};
use dpo_lora::eval::preference::{self, Summary};
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::pass::Pass;
use dpo_lora::objective::Objective;
use dpo_lora::weights::{DType, SafetensorsSource};

fn at(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn base(dtype: Option<DType>) -> (Model, String) {
    let directory = at("examples/tiny-reviews/model");
    let source = SafetensorsSource::open(&directory).unwrap();
    let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
    let fingerprint = fingerprint::fingerprint_with(&source, None).unwrap();
    (Decoder::load(spec, &source, dtype).unwrap().into(), fingerprint)
}

fn evaluate(decoder: &Model) -> Summary {
    let data = Sources::from(at("examples/tiny-reviews/eval.jsonl").to_str().unwrap());
    let pairs = records::load(&source::resolve(&data).unwrap()).unwrap();
    let tokenizer = ChatTokenizer::load(at("examples/tiny-reviews/model"), None).unwrap();
    let (examples, _) = ingest(&tokenizer, &pairs, Truncation::default());
    assert_eq!(examples.len(), 200);
    let reference = |batch: &_| decoder.logps(batch, Pass::Reference).map(Some);
    preference::evaluate((decoder, &decoder.policy), &examples, 16, &Objective::default(), reference)
        .unwrap()
        .summary()
}

#[test]
fn tiny_reviews_favourable_prefers_favourable_reviews() {
    let (mut decoder, fingerprint) = base(None);
    let before = evaluate(&decoder);
    assert!((0.35..0.65).contains(&before.logp_accuracy.unwrap()), "{before:?}");

    let directory = at("adapters/tiny-reviews-favourable");
    let read = peft::read(&directory, decoder.spec()).unwrap();
    let its = read.metadata.get(peft::FINGERPRINT_KEY);
    assert_eq!(its, Some(&fingerprint), "it is of another base; make it anew as its README says");
    decoder.train(read.adapters);
    let after = evaluate(&decoder);
    assert!(after.logp_accuracy.unwrap() >= 0.9 && after.accuracy.unwrap() >= 0.9, "{after:?}");
    assert!(after.reward_margin.unwrap() > 0.0, "{after:?}");
}

/// `tests/parity/check_adapter.py` made the fixture: the last position's logits in float32.
#[test]
fn tiny_reviews_favourable_has_the_logits_of_peft() {
    let (mut decoder, _) = base(Some(DType::F32));
    adapt(&mut decoder, &at("adapters/tiny-reviews-favourable"));
    for case in json("adapters/tiny-reviews-favourable.json").as_array().unwrap() {
        let ids = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        let (prompt, origin) = (ids.collect::<Vec<_>>(), Origin::new("fixture", 1));
        let last = prompt.len() as u32 - 1;
        let batch =
            pack(&[Example { prompt, completions: Vec::new(), kind: dpo_lora::data::Kind::PAIR, origin }]);
        let logits = |pass| decoder.logits(&batch, &[last], pass).unwrap().into_numbers();
        let (policy, reference) = (logits(Pass::Policy), logits(Pass::Reference));
        let want: Vec<f64> = case["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(policy.len(), want.len());
        let apart = |got: &[f32]| {
            got.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max)
        };
        assert!(apart(&policy) < 1e-4, "{}", apart(&policy));
        assert!(apart(&reference) > 0.1, "the adapter does nothing: {}", apart(&reference));
    }
}
