use serde_json::Value;

use super::*;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::Policy;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The largest difference between a next-token log-prob and llama.cpp's value.
fn furthest(model: &GgufModel, expected: &Value) -> f64 {
    let decoder = Decoder::load(model.spec.clone(), &model.source, None).unwrap();
    let prompts = expected["prompts"].as_array().unwrap();
    let rows =
        prompts.iter().zip(expected["next_token_logps"].as_array().unwrap()).map(|(prompt, wanted)| {
            let tokens: Vec<u32> = numbers(prompt).iter().map(|token| *token as u32).collect();
            let logits =
                decoder.step(&tokens, &mut decoder.new_cache(), &Policy::default(), Pass::Policy).unwrap();
            let lse = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            let apart =
                logits.iter().zip(numbers(wanted)).map(|(x, wanted)| (f64::from(*x) - lse - wanted).abs());
            apart.fold(0.0, f64::max)
        });
    rows.fold(0.0, f64::max)
}

/// Compares with llama.cpp's log-probs of files from `tests/parity/gguf_rotary.py`, which differ only in their rotary
/// keys. Two of the files differ by 1 nat or more.
#[test]
fn rotary_keys_mean_what_llama_cpp_makes_of_them() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/rotary");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(place.join("expected.json")).unwrap()).unwrap();
    for (name, expected) in expected.as_object().unwrap() {
        let model = GgufModel::open(&place.join(format!("{name}.gguf"))).unwrap();
        let apart = furthest(&model, expected);
        // The weights are f16, which llama.cpp multiplies with activations rounded to f16.
        assert!(apart < 0.02, "{name}: {apart}");
    }
}

#[test]
fn a_file_without_the_norms_epsilon_is_refused() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama.gguf");
    let key = "llama.attention.layer_norm_rms_epsilon";
    let mut bytes = std::fs::read(fixture).unwrap();
    let at = bytes.windows(key.len()).position(|part| part == key.as_bytes()).unwrap();
    bytes[at] = b'x';
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = GgufModel::open(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("m.gguf has no {key} in its metadata")), "{error}");
}
