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

/// The bytes of a value, after its type.
fn u32_of(value: u32) -> (u32, Vec<u8>) {
    (4, value.to_le_bytes().to_vec())
}

fn f32_of(value: f32) -> (u32, Vec<u8>) {
    (6, value.to_le_bytes().to_vec())
}

fn flag_of(value: bool) -> (u32, Vec<u8>) {
    (7, vec![u8::from(value)])
}

fn list_of(values: &[u32]) -> (u32, Vec<u8>) {
    let numbers = values.iter().flat_map(|value| value.to_le_bytes());
    let start = 4u32.to_le_bytes().into_iter().chain((values.len() as u64).to_le_bytes());
    (9, start.chain(numbers).collect())
}

/// An entry of the metadata.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let length = (key.len() as u64).to_le_bytes();
    [length.as_slice(), key.as_bytes(), &kind.to_le_bytes(), value].concat()
}

/// Opens a fixture with more metadata. A key that the file has already is hidden.
fn open_with(name: &str, keys: &[(&str, (u32, Vec<u8>))]) -> Result<GgufModel> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let mut bytes = std::fs::read(fixture.join(format!("{name}.gguf"))).unwrap();
    let mut more = Vec::new();
    for (key, (kind, value)) in keys {
        let there = [(key.len() as u64).to_le_bytes().as_slice(), key.as_bytes()].concat();
        if let Some(at) = bytes.windows(there.len()).position(|part| part == there) {
            bytes[at + 8] = b'x';
        }
        more.extend(entry(key, *kind, value));
    }
    // A last text keeps the tensors at multiples of 32 bytes.
    let rest = (32 - (more.len() + entry("x", 8, &[0; 8]).len()) % 32) % 32;
    let text = [(rest as u64).to_le_bytes().as_slice(), vec![b' '; rest].as_slice()].concat();
    more.extend(entry("x", 8, &text));
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + keys.len() as u64 + 1;
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    bytes.splice(24..24, more);
    open_bytes(&bytes)
}

fn open_bytes(bytes: &[u8]) -> Result<GgufModel> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    GgufModel::open(&path)
}

#[test]
fn a_key_that_could_change_the_model_is_read_or_refused() {
    let cases = [
        ("llama", "llama.logit_scale", f32_of(0.5), "llama.logit_scale: not understood"),
        ("qwen2", "qwen2.attention.causal", flag_of(false), "qwen2.attention.causal: is false"),
        ("gemma2", "gemma2.rope.freq_base_swa", f32_of(50.0), "rope.freq_base_swa: layers with a window"),
        ("gemma3", "gemma3.rope.dimension_count_swa", u32_of(8), "rope.dimension_count_swa: is 8, but 32"),
        ("gemma3", "gemma3.attention.key_length_swa", u32_of(8), "attention.key_length_swa: is 8, but 32"),
        ("gemma2", "gemma2.attention.sliding_window", u32_of(0), "gemma2.attention.sliding_window: is 0"),
        ("gemma2", "gemma2.final_logit_softcapping", f32_of(0.0), "final_logit_softcapping: is 0"),
        ("gemma2", "gemma2.attn_logit_softcapping", f32_of(-1.0), "attn_logit_softcapping: is -1"),
        ("gemma3", "gemma3.final_logit_softcapping", f32_of(-1.0), "final_logit_softcapping: is -1"),
        ("gemma3", "gemma3.attention.sliding_window_pattern", list_of(&[1, 0]), "a list of 6 flags"),
        ("llama", "llama.attention.head_count_kv", list_of(&[2, 1]), "only 2 equal whole numbers"),
        ("llama", "llama.rope.freq_base", (8, vec![0; 8]), "llama.rope.freq_base is not a finite number"),
    ];
    for (name, key, value, expected) in cases {
        let error = open_with(name, &[(key, value)]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("m.gguf"), "{key}: {error}");
    }
    let harmless = [
        ("llama.attention.causal", flag_of(true)),
        ("llama.expert_used_count", u32_of(0)),
        ("llama.use_parallel_residual", flag_of(true)),
        ("llama.rope.scaling.finetuned", flag_of(true)),
        ("llama.attention.head_count_kv", list_of(&[2, 2])),
    ];
    assert_eq!(open_with("llama", &harmless).unwrap().spec.layers[1].attention.heads.n_kv_head, 2);
}

#[test]
fn layers_slide_as_numbers_or_flags_say_and_a_cap_of_0_is_none_for_gemma_3() {
    let slides = list_of(&[0, 1, 0, 1, 7, 0]);
    let keys = [
        ("gemma3.attention.sliding_window_pattern", slides),
        ("gemma3.final_logit_softcapping", f32_of(0.0)),
    ];
    let spec = open_with("gemma3", &keys).unwrap().spec;
    let windows: Vec<bool> = spec.layers.iter().map(|layer| layer.attention.heads.window.is_some()).collect();
    assert_eq!(windows, [false, true, false, true, true, false]);
    assert_eq!(spec.logits.softcap, None);
}

/// llama.cpp reads divisors of frequencies for architecture llama only, and Gemma 2's embedding is its head.
#[test]
fn a_tensor_that_llama_cpp_does_not_load_is_refused() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama.gguf");
    let bytes = std::fs::read(fixture).unwrap();
    for (architecture, tensor) in [("qwen3", "rope_freqs.weight"), ("gemma", "output.weight")] {
        let mut changed = bytes.clone();
        for at in 0..bytes.len() - 16 {
            // The value of general.architecture, and the keys below it.
            let start = match &bytes[at..] {
                [b'l', b'l', b'a', b'm', b'a', b'.', ..] => at,
                [5, 0, 0, 0, 0, 0, 0, 0, b'l', b'l', b'a', b'm', b'a', ..] => at + 8,
                _ => continue,
            };
            changed[start..start + 5].copy_from_slice(architecture.as_bytes());
        }
        let error = open_bytes(&changed).unwrap_err().to_string();
        assert!(error.contains(&format!("does not have here: {tensor}")), "{error}");
    }
}

/// The default of Phi-3's class is a token that a smaller vocabulary does not have.
#[test]
fn a_file_without_a_padding_token_has_none() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/phi3.gguf");
    let mut bytes = std::fs::read(fixture).unwrap();
    let key = b"tokenizer.ggml.padding_token_id";
    let at = bytes.windows(key.len()).position(|part| part == key).unwrap();
    bytes[at] = b'x';
    assert_eq!(open_bytes(&bytes).unwrap().config["pad_token_id"], Value::Null);
}

#[test]
fn biases_that_no_llama_of_transformers_has_are_named() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama.gguf");
    let mut bytes = std::fs::read(fixture).unwrap();
    let (name, bias) = (b"rope_freqs.weight", b"blk.0.attn_q.bias");
    let at = bytes.windows(name.len()).position(|part| part == name).unwrap();
    bytes[at..at + bias.len()].copy_from_slice(bias);
    let error = open_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("has blk.0.attn_q.bias but no blk.0.attn_output.bias"), "{error}");
}
