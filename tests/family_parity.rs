//! Every family compared with transformers and PEFT (`tests/parity/make_fixtures.py`), in f32.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Model, adapt, decoder, examples, fixture, json, models, numbers, pack};
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::pass::Pass;
use serde_json::Value;

/// Returns the adapters of a fixture, `none` first.
fn cases(expected: &Value) -> Vec<String> {
    expected["adapters"].as_object().unwrap().keys().cloned().collect()
}

fn with_case(name: &str, case: &str) -> Model {
    let mut decoder = decoder(name);
    if case != "none" {
        adapt(&mut decoder, &fixture("models").join(name).join("adapters").join(case));
    }
    decoder
}

#[test]
fn summed_logps_agree_within_a_thousandth_of_a_nat() {
    assert!(models().len() >= 49);
    for name in models() {
        let expected = json(&format!("models/{name}/expected.json"));
        // The tokenizer with which the figures were made; for a model directory of Qwen 2 it is rebuilt.
        let examples = examples("pairs.jsonl", &fixture("tokenizer"));
        let batch = pack(&examples);
        let mut bare = Vec::new();
        for case in cases(&expected) {
            let decoder = with_case(&name, &case);
            let got = decoder.logps(&batch, Pass::Policy).unwrap();
            let reference = decoder.logps(&batch, Pass::Reference).unwrap();
            for (i, want) in expected["adapters"][&case].as_array().unwrap().iter().enumerate() {
                for (side, key) in ["chosen_logp", "rejected_logp"].iter().enumerate() {
                    let (got, want) = (got[2 * i + side], want[key].as_f64().unwrap());
                    assert!((got - want).abs() < 1e-3, "{name} {case} pair {i} {key}: {got} against {want}");
                }
                assert_eq!(examples[i].scored(0) as u64, want["chosen_tokens"].as_u64().unwrap());
            }
            if case == "none" {
                bare = got.clone();
            } else {
                let moved = got.iter().zip(&bare).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(moved > 0.1, "{name} {case}: the adapter does nothing");
            }
            // On the reference pass the adapter has no effect, to the bit.
            assert_eq!(reference, bare, "{name} {case}");
        }
    }
}

#[test]
fn configurations_of_older_layouts_say_the_same() {
    let mut compared = 0;
    for name in models() {
        let directory = fixture("models").join(&name);
        let Ok(text) = std::fs::read_to_string(directory.join("config.old.json")) else { continue };
        let spec = |text: &str| families::spec(&ConfigJson::parse(text, &name).unwrap()).unwrap();
        let mut old = spec(&text);
        let new = spec(&std::fs::read_to_string(directory.join("config.json")).unwrap());
        // The place of a key is all that may differ.
        old.tie_is_stated = new.tie_is_stated;
        assert_eq!(format!("{old:?}"), format!("{new:?}"), "{name}");
        compared += 1;
    }
    assert!(compared > 35, "{compared}");
}

#[test]
fn logits_agree() {
    for name in models() {
        let expected = json(&format!("models/{name}/expected.json"));
        let example = &examples("pairs.jsonl", &fixture("models").join(&name))[0];
        // The last token of prompt and chosen has a row, too, if something follows it.
        let mut longer = example.clone();
        longer.completions.truncate(1);
        longer.completions[0].push(0);
        let batch = pack(&[longer]);
        for case in cases(&expected) {
            let row = batch.tokens.len() as u32 - 1;
            let logits = with_case(&name, &case).logits(&batch, &[row], Pass::Policy).unwrap();
            let got = logits.into_numbers();
            for (i, (got, want)) in got.iter().zip(numbers(&expected["logits"][&case])).enumerate() {
                // A tolerance of 5e-5 tells a tanh GELU from an exact one.
                assert!(
                    (f64::from(*got) - want).abs() < 5e-5,
                    "{name} {case} logit {i}: {got} against {want}"
                );
            }
        }
    }
}

#[test]
fn greedy_text_agrees() {
    for name in models() {
        let expected = json(&format!("models/{name}/expected.json"));
        for case in ["none", "plain"].into_iter().filter(|case| expected["greedy"].get(case).is_some()) {
            let decoder = with_case(&name, case);
            for want in expected["greedy"][case].as_array().unwrap() {
                let ids = |key: &str| numbers(&want[key]).into_iter().map(|x| x as u32).collect::<Vec<_>>();
                let (mut next, wanted) = (ids("prompt_ids"), ids("tokens"));
                let mut cache = decoder.new_cache();
                let mut got = Vec::new();
                while got.len() < wanted.len() {
                    let logits = decoder.step(&next, &mut cache, Pass::Policy).unwrap();
                    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                    next = vec![best as u32];
                    got.push(best as u32);
                }
                assert_eq!(got, wanted, "{name} {case}");
            }
        }
    }
}
