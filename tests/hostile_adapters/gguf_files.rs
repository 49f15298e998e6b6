//! GGUF adapters.

use std::fs;

use dpo_lora::adapter::gguf::{self, GgufType};
use dpo_lora::adapter::peft;

use super::{Cases, model, spec};

pub fn gguf_file(kind: GgufType) -> Vec<u8> {
    let spec = spec();
    let adapters = peft::read(&model().join("adapters/plain"), &spec).unwrap().adapters;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.gguf");
    gguf::write(&path, &adapters, &spec, kind, &peft::Origin::default()).unwrap();
    fs::read(path).unwrap()
}

/// Returns the position of a text in a file.
fn find(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

fn replaced(bytes: &[u8], at: usize, by: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + by.len()].copy_from_slice(by);
    bytes
}

#[test]
fn gguf_adapters() {
    let good = gguf_file(GgufType::F32);
    let mut cases = Cases::new();
    for at in (0..20).map(|i| good.len() * i / 20).chain([3, 4, 8, 23, 24, good.len() - 4096]) {
        cases.gguf(&format!("cut at {at}"), &good[..at]);
    }
    for (name, at, by) in [
        ("another magic", 0, b"GGML".to_vec()),
        ("version 1", 4, 1u32.to_le_bytes().to_vec()),
        ("big-endian", 4, 3u32.to_be_bytes().to_vec()),
        ("version 2^31", 4, (1u32 << 31).to_le_bytes().to_vec()),
        ("2^63 tensors", 8, (1u64 << 63).to_le_bytes().to_vec()),
        ("2^40 tensors", 8, (1u64 << 40).to_le_bytes().to_vec()),
        ("one tensor too many", 8, 43u64.to_le_bytes().to_vec()),
        ("2^63 keys", 16, (1u64 << 63).to_le_bytes().to_vec()),
        ("no keys", 16, 0u64.to_le_bytes().to_vec()),
        ("a key of 2^60 bytes", 24, (1u64 << 60).to_le_bytes().to_vec()),
    ] {
        cases.gguf(name, replaced(&good, at, &by));
    }
    for (name, text, offset, by) in [
        ("another architecture", "general.architecture", 20 + 4 + 8, b"qwen2".to_vec()),
        ("a model", "general.type", 12 + 4 + 8, b"chapter".to_vec()),
        ("another adapter", "adapter.type", 12 + 4 + 8, b"loha".to_vec()),
        ("an alpha of no type", "adapter.lora.alpha", 18, 77u32.to_le_bytes().to_vec()),
        ("an alpha of text", "adapter.lora.alpha", 18, 8u32.to_le_bytes().to_vec()),
        ("an alpha of a list", "adapter.lora.alpha", 18, 9u32.to_le_bytes().to_vec()),
        ("an alpha of NaN", "adapter.lora.alpha", 22, f32::NAN.to_le_bytes().to_vec()),
        ("a name that is no text", "adapter.lora.alpha", 0, vec![0xff, 0xfe]),
    ] {
        cases.gguf(name, replaced(&good, find(&good, text) + offset, &by));
    }
    // The entry of a tensor: name, dimensions, sizes, type, offset.
    let name = "blk.0.attn_k.weight.lora_a";
    let entry = find(&good, name) + name.len();
    for (what, offset, by) in [
        ("no dimensions", 0, 0u32.to_le_bytes().to_vec()),
        ("2^32 − 1 dimensions", 0, u32::MAX.to_le_bytes().to_vec()),
        ("five dimensions", 0, 5u32.to_le_bytes().to_vec()),
        ("2^63 columns", 4, (1u64 << 63).to_le_bytes().to_vec()),
        ("no columns", 4, 0u64.to_le_bytes().to_vec()),
        (
            "columns of 2^32 and rows of 2^32",
            4,
            [(1u64 << 32).to_le_bytes(), (1u64 << 32).to_le_bytes()].concat(),
        ),
        ("other columns", 4, 16u64.to_le_bytes().to_vec()),
        ("another rank", 12, 2u64.to_le_bytes().to_vec()),
        ("an unknown type", 20, 1000u32.to_le_bytes().to_vec()),
        ("a removed type", 20, 4u32.to_le_bytes().to_vec()),
        ("whole numbers", 20, 26u32.to_le_bytes().to_vec()),
        ("a type that is not read", 20, 18u32.to_le_bytes().to_vec()),
        ("a crooked offset", 24, 4u64.to_le_bytes().to_vec()),
        ("an offset of 2^63", 24, (1u64 << 63).to_le_bytes().to_vec()),
        ("an offset near 2^64", 24, (u64::MAX - 31).to_le_bytes().to_vec()),
        ("overlapping", 24, 64u64.to_le_bytes().to_vec()),
        ("beyond its end", 24, (good.len() as u64 / 32 * 32).to_le_bytes().to_vec()),
    ] {
        cases.gguf(what, replaced(&good, entry + offset, &by));
    }
    for (what, by) in [
        ("a stranger", "blk.9.attn_k.weight.lora_a"),
        ("an embedding", "token_embd.weight.lora_aaa"),
        ("no half", "blk.0.attn_k.weight.lora_x"),
        ("a path", "../../../../etc/passwd...."),
        ("twice", "blk.0.attn_k.weight.lora_b"),
    ] {
        cases.gguf(what, replaced(&good, entry - name.len(), by.as_bytes()));
    }
    cases.gguf("not finite", replaced(&good, good.len() - 64, &f32::INFINITY.to_le_bytes()));
    cases.gguf("empty", []);
    cases.done(60);
}
