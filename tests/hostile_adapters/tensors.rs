//! Safetensors files of PEFT adapters: headers, storage types, names and numbers.

use super::{Cases, good, safetensors, tensor};

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";

/// A case's name, its header, and the number of bytes after it.
type Header = (&'static str, String, usize);

/// The tensors of a valid adapter.
fn pair() -> (String, String) {
    (tensor(A, "F32", "[4,32]", "[0,512]"), tensor(B, "F32", "[48,4]", "[512,1280]"))
}

/// Truncated files, trailing bytes, and wrong lengths of the header.
fn damaged_files(cases: &mut Cases, config: &[u8], weights: &[u8]) {
    for at in (0..16).map(|i| weights.len() * i / 16).chain([1, 7, 8, 9, weights.len() - 1]) {
        cases.peft(&format!("cut at {at}"), config, &weights[..at]);
    }
    cases.peft("with a tail", config, [weights, &[0; 64]].concat());
    for (name, length) in [
        ("0", 0u64),
        ("1", 1),
        ("2^32", 1 << 32),
        ("2^63", 1 << 63),
        ("all ones", u64::MAX),
        ("100 MB", 100_000_001),
    ] {
        cases.peft(
            &format!("a header of {name}"),
            config,
            [&length.to_le_bytes()[..], &weights[8..]].concat(),
        );
    }
}

/// Headers with wrong JSON, offsets or shapes.
fn wrong_layouts() -> Vec<Header> {
    let (q_a, q_b) = pair();
    vec![
        ("no JSON", "{".into(), 0),
        ("a list", "[]".into(), 0),
        ("deep nesting", "[".repeat(100_000), 0),
        ("nothing in it", "{}".into(), 0),
        ("one half", format!("{{{q_a}}}"), 512),
        (
            "the same bytes twice",
            format!(
                "{{{},{}}}",
                tensor(A, "F32", "[4,32]", "[0,512]"),
                tensor(B, "F32", "[4,32]", "[0,512]")
            ),
            512,
        ),
        ("overlapping", format!("{{{q_a},{}}}", tensor(B, "F32", "[48,4]", "[256,1024]")), 1024),
        ("a hole", format!("{{{q_a},{}}}", tensor(B, "F32", "[48,4]", "[600,1368]")), 1368),
        ("backwards", format!("{{{}}}", tensor(A, "F32", "[4,32]", "[512,0]")), 512),
        ("beyond its end", format!("{{{q_a},{q_b}}}"), 100),
        ("offsets of 2^64", format!("{{{}}}", tensor(A, "F32", "[4,32]", "[0,18446744073709551615]")), 512),
        ("negative offsets", format!("{{{}}}", tensor(A, "F32", "[4,32]", "[-1,511]")), 512),
        (
            "a shape that overflows",
            format!("{{{}}}", tensor(A, "F32", "[4294967296,4294967296,4]", "[0,512]")),
            512,
        ),
        ("a shape of 2^62", format!("{{{}}}", tensor(A, "F32", "[4611686018427387904,4]", "[0,0]")), 0),
        ("a shape below 0", format!("{{{}}}", tensor(A, "F32", "[-4,32]", "[0,512]")), 512),
        (
            "rank 0",
            format!("{{{},{}}}", tensor(A, "F32", "[0,32]", "[0,0]"), tensor(B, "F32", "[48,0]", "[0,0]")),
            0,
        ),
        (
            "no shape",
            format!("{{{},{}}}", tensor(A, "F32", "[]", "[0,4]"), tensor(B, "F32", "[]", "[4,8]")),
            8,
        ),
        ("three dimensions", format!("{{{},{}}}", tensor(A, "F32", "[4,32,1]", "[0,512]"), q_b), 1280),
        (
            "the other base's width",
            format!(
                "{{{},{}}}",
                tensor(A, "F32", "[4,64]", "[0,1024]"),
                tensor(B, "F32", "[48,4]", "[1024,1792]")
            ),
            1792,
        ),
        ("ranks that differ", format!("{{{q_a},{}}}", tensor(B, "F32", "[48,8]", "[512,2048]")), 2048),
    ]
}

/// Headers with storage types that are wrong or do not match the bytes.
fn wrong_types() -> Vec<Header> {
    vec![
        (
            "whole numbers",
            format!(
                "{{{},{}}}",
                tensor(A, "I32", "[4,32]", "[0,512]"),
                tensor(B, "I32", "[48,4]", "[512,1280]")
            ),
            1280,
        ),
        (
            "f64",
            format!(
                "{{{},{}}}",
                tensor(A, "F64", "[4,32]", "[0,1024]"),
                tensor(B, "F64", "[48,4]", "[1024,2560]")
            ),
            2560,
        ),
        (
            "8-bit floats",
            format!(
                "{{{},{}}}",
                tensor(A, "F8_E4M3", "[4,32]", "[0,128]"),
                tensor(B, "F8_E4M3", "[48,4]", "[128,320]")
            ),
            320,
        ),
        (
            "bools",
            format!(
                "{{{},{}}}",
                tensor(A, "BOOL", "[4,32]", "[0,128]"),
                tensor(B, "BOOL", "[48,4]", "[128,320]")
            ),
            320,
        ),
        ("an unknown type", format!("{{{}}}", tensor(A, "Q4_K", "[4,32]", "[0,72]")), 72),
        ("wrong bytes for its type", format!("{{{}}}", tensor(A, "F32", "[4,32]", "[0,256]")), 256),
        ("metadata that is no map", r#"{"__metadata__":7}"#.into(), 0),
    ]
}

/// Headers with wrong names, or with tensors that do not belong to a LoRA adapter.
fn wrong_names() -> Vec<Header> {
    let (q_a, q_b) = pair();
    vec![
        (
            "an embedding",
            format!(
                "{{{}}}",
                tensor("base_model.model.model.embed_tokens.lora_embedding_A", "F32", "[4,320]", "[0,5120]")
            ),
            5120,
        ),
        (
            "a magnitude",
            format!(
                "{{{q_a},{q_b},{}}}",
                tensor(
                    "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                    "F32",
                    "[48]",
                    "[1280,1472]"
                )
            ),
            1472,
        ),
        (
            "a module to save",
            format!("{{{}}}", tensor("base_model.model.lm_head.weight", "F32", "[1,1]", "[0,4]")),
            4,
        ),
        (
            "a path",
            format!(
                "{{{}}}",
                tensor("base_model.model.../../../etc/passwd.lora_A.weight", "F32", "[1,1]", "[0,4]")
            ),
            4,
        ),
        (
            "no prefix",
            format!(
                "{{{}}}",
                tensor("model.layers.0.self_attn.q_proj.lora_A.weight", "F32", "[4,32]", "[0,512]")
            ),
            512,
        ),
        (
            "the same module by two names",
            format!(
                "{{{q_a},{q_b},{}}}",
                tensor(&A.replace("model.layers", "_orig_mod.model.layers"), "F32", "[4,32]", "[1280,1792]")
            ),
            1792,
        ),
    ]
}

#[test]
fn safetensors_adapters() {
    let (config, weights) = good();
    let mut cases = Cases::new();
    damaged_files(&mut cases, &config, &weights);
    for (name, header, data) in wrong_layouts().into_iter().chain(wrong_types()).chain(wrong_names()) {
        cases.peft(name, &config, safetensors(&header, data));
    }
    let strangers: Vec<String> = (0..20_000)
        .map(|i| tensor(&A.replace('0', &i.to_string()).replace("q_p", "q_"), "F32", "[0]", "[0,0]"))
        .collect();
    cases.peft("20,000 strangers", &config, safetensors(&format!("{{{}}}", strangers.join(",")), 0));
    let long = tensor(&A.replace("q_proj", &"q".repeat(2_000_000)), "F32", "[0]", "[0,0]");
    cases.peft("a name of 2 MB", &config, safetensors(&format!("{{{long}}}"), 0));
    for (name, at) in [("NaN", f32::NAN), ("infinity", f32::NEG_INFINITY)] {
        let mut bytes = weights.clone();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&at.to_le_bytes());
        cases.peft(name, &config, bytes);
    }
    cases.done(60);
}
