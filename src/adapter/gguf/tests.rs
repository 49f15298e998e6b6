use std::path::PathBuf;

use half::{bf16, f16};

use super::super::gguf_writer::ALIGNMENT;
use super::super::peft;
use super::*;
use crate::model::families::{self, ConfigJson};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn spec(name: &str) -> DecoderSpec {
    families::spec(&ConfigJson::open(&model(name)).unwrap()).unwrap()
}

fn adapter(name: &str, case: &str) -> Adapters {
    peft::read(&model(name).join("adapters").join(case), &spec(name)).unwrap().adapters
}

/// A file, read by the format's specification only.
struct Parsed {
    texts: BTreeMap<String, String>,
    alpha: f32,
    /// Name → (columns, rows, type, bytes from the tensor's start).
    tensors: BTreeMap<String, (usize, usize, u32, Vec<u8>)>,
}

struct Cursor<'a>(&'a [u8], usize);

impl Cursor<'_> {
    fn take(&mut self, n: usize) -> &[u8] {
        self.1 += n;
        &self.0[self.1 - n..self.1]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().unwrap()) as usize
    }

    fn text(&mut self) -> String {
        let n = self.u64();
        String::from_utf8(self.take(n).to_vec()).unwrap()
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut at = Cursor(bytes, 0);
    assert_eq!(at.take(4), b"GGUF");
    assert_eq!(at.u32(), 3);
    let (tensors, keys) = (at.u64(), at.u64());
    let mut parsed = Parsed { texts: BTreeMap::new(), alpha: f32::NAN, tensors: BTreeMap::new() };
    for _ in 0..keys {
        let key = at.text();
        match at.u32() {
            6 => parsed.alpha = f32::from_bits(at.u32()),
            8 => {
                parsed.texts.insert(key, at.text());
            }
            other => panic!("{key} is of type {other}"),
        }
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let name = at.text();
        assert_eq!(at.u32(), 2);
        infos.push((name, at.u64(), at.u64(), at.u32(), at.u64()));
    }
    let start = at.1.next_multiple_of(ALIGNMENT);
    assert_eq!(bytes.len() % ALIGNMENT, 0);
    for (name, columns, rows, kind, offset) in infos {
        assert_eq!(offset % ALIGNMENT, 0, "{name}");
        parsed.tensors.insert(name, (columns, rows, kind, bytes[start + offset..].to_vec()));
    }
    parsed
}

impl Parsed {
    fn f32(&self, name: &str) -> Vec<f32> {
        let (columns, rows, kind, bytes) = &self.tensors[name];
        let count = columns * rows;
        match kind {
            0 => bytes.chunks(4).take(count).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            1 => bytes.chunks(2).take(count).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            30 => bytes.chunks(2).take(count).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            8 => {
                let block = |b: &[u8]| {
                    let scale = f16::from_le_bytes([b[0], b[1]]).to_f32();
                    b[2..].iter().map(|q| f32::from(*q as i8) * scale).collect::<Vec<_>>()
                };
                bytes.chunks(34).take(count / 32).flat_map(block).collect()
            }
            other => panic!("type {other}"),
        }
    }

    fn scale(&self, name: &str) -> f32 {
        self.alpha / self.tensors[&format!("{name}.lora_b")].0 as f32
    }
}

fn export(adapters: &Adapters, spec: &DecoderSpec, kind: GgufType) -> (GgufReport, Parsed) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("adapter.gguf");
    let report = write(&path, adapters, spec, kind, &Origin::default()).unwrap();
    (report, parse(&std::fs::read(&path).unwrap()))
}

#[test]
fn the_scale_of_each_module_comes_out_whatever_its_rule() {
    for case in ["plain", "rslora", "patterns", "subset"] {
        let adapters = adapter("llama", case);
        let (report, file) = export(&adapters, &spec("llama"), GgufType::F32);
        assert_eq!(file.tensors.len(), 2 * adapters.loras("a test").unwrap().len());
        assert_eq!((report.alpha, report.modules), (file.alpha, adapters.loras("a test").unwrap().len()));
        for lora in adapters.loras("a test").unwrap().iter().filter(|lora| lora.module.ends_with("down_proj"))
        {
            let layer = lora.module.split('.').nth(2).unwrap();
            let name = format!("blk.{layer}.ffn_down.weight");
            assert_eq!(file.f32(&format!("{name}.lora_a")), adapters.values()[lora.a()]);
            let b = file.f32(&format!("{name}.lora_b"));
            for (written, b) in b.iter().zip(&adapters.values()[lora.b()]) {
                let (here, there) = (f64::from(written * file.scale(&name)), lora.scale * f64::from(*b));
                assert!(
                    (here - there).abs() <= 1e-6 * there.abs(),
                    "{case} {}: {here} for {there}",
                    lora.module
                );
            }
            if case == "plain" {
                assert_eq!(
                    (b.as_slice(), file.alpha),
                    (&adapters.values()[lora.b()], 6.0),
                    "nothing to fold"
                );
            }
        }
    }
}

#[test]
fn rows_of_queries_and_keys_are_reordered_where_the_base_is() {
    // llama: 4 heads of 12 and 2 of them for keys; row 12h + 2j + i was 12h + 6i + j.
    let adapters = adapter("llama", "plain");
    let (_, file) = export(&adapters, &spec("llama"), GgufType::F32);
    assert_eq!(file.texts["general.architecture"], "llama");
    assert_eq!(
        (file.texts["general.type"].as_str(), file.texts["adapter.type"].as_str()),
        ("adapter", "lora")
    );
    for (module, name, rows) in [("q_proj", "attn_q", 48), ("k_proj", "attn_k", 24), ("v_proj", "attn_v", 24)]
    {
        let lora = adapters.find_lora(&format!("model.layers.1.self_attn.{module}")).unwrap();
        let b = &adapters.values()[lora.b()];
        let found = file.f32(&format!("blk.1.{name}.weight.lora_b"));
        assert_eq!((found.len(), lora.outputs), (rows * 4, rows));
        for (head, j, half) in
            (0..rows / 12).flat_map(|h| (0..6).flat_map(move |j| (0..2).map(move |i| (h, j, i))))
        {
            let to = 12 * head + 2 * j + half;
            let from = if module == "v_proj" { to } else { 12 * head + 6 * half + j };
            assert_eq!(found[to * 4..to * 4 + 4], b[from * 4..from * 4 + 4], "{module} row {to}");
        }
        assert_eq!(file.f32(&format!("blk.1.{name}.weight.lora_a")), adapters.values()[lora.a()]);
    }
    // qwen2 has them as transformers does.
    let adapters = adapter("qwen2", "plain");
    let (_, file) = export(&adapters, &spec("qwen2"), GgufType::F32);
    let lora = adapters.find_lora("model.layers.0.self_attn.q_proj").unwrap();
    assert_eq!(file.f32("blk.0.attn_q.weight.lora_b"), adapters.values()[lora.b()]);
}

#[test]
fn fused_and_transposed_modules_keep_their_shapes() {
    for (name, fused, outputs) in
        [("phi3", "blk.2.attn_qkv.weight", 64), ("gpt2", "blk.2.attn_qkv.weight", 96)]
    {
        let (report, file) = export(&adapter(name, "plain"), &spec(name), GgufType::F32);
        assert_eq!(report.architecture, name);
        let (a, b) = (&file.tensors[&format!("{fused}.lora_a")], &file.tensors[&format!("{fused}.lora_b")]);
        assert_eq!((a.0, b.1, a.1), (32, outputs, b.0), "{name}");
        let up = &file.tensors["blk.0.ffn_up.weight.lora_b"];
        assert_eq!(up.1, if name == "phi3" { 112 } else { 56 });
        assert!(!file.tensors.contains_key("blk.0.ffn_gate.weight.lora_b"));
    }
}

#[test]
fn narrow_types_hold_small_numbers_as_well_as_large_ones() {
    for (kind, error) in
        [(GgufType::BF16, 2f32.powi(-8)), (GgufType::F16, 2f32.powi(-11)), (GgufType::Q8_0, 0.005)]
    {
        for shrink in [1.0, 1e-6] {
            let mut adapters = adapter("llama", "plain");
            let ranges: Vec<_> = adapters.loras("a test").unwrap().iter().map(|lora| lora.b()).collect();
            adapters
                .update(|all| ranges.into_iter().for_each(|b| all[b].iter_mut().for_each(|x| *x *= shrink)));
            let (report, file) = export(&adapters, &spec("llama"), kind);
            // Rank 4: B cannot be quantised, and neither can A of down_proj, whose rows have 56 numbers.
            assert_eq!(
                report.unquantised.len(),
                if kind == GgufType::Q8_0 { adapters.loras("a test").unwrap().len() } else { 0 }
            );
            let lora = adapters.find_lora("model.layers.0.mlp.gate_proj").unwrap();
            for (name, range, scale) in [
                ("blk.0.ffn_gate.weight.lora_a", lora.a(), 1.0),
                (
                    "blk.0.ffn_gate.weight.lora_b",
                    lora.b(),
                    file.scale("blk.0.ffn_gate.weight") / lora.scale as f32,
                ),
            ] {
                let exact = &adapters.values()[range];
                let largest = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
                for (found, exact) in file.f32(name).iter().zip(exact) {
                    let off = (found * scale - exact).abs();
                    assert!(off <= error * largest, "{kind} {name} {shrink}: {found} for {exact}");
                }
            }
        }
    }
}

#[test]
fn what_llama_cpp_does_not_know_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("adapter.gguf");
    let refused = |adapters: &Adapters, name: &str, kind| {
        write(&path, adapters, &spec(name), kind, &Origin::default()).unwrap_err().to_string()
    };
    let error = refused(&adapter("gptj", "plain"), "gptj", GgufType::F32);
    assert!(error.contains("gptj is not supported") && error.contains("qwen3"), "{error}");
    let error = refused(&adapter("llama", "plain"), "phi3", GgufType::F32);
    assert!(error.contains("layers.0.self_attn.q_proj") && error.contains("layers.2.mlp.up_proj"), "{error}");
    let error = refused(&adapter("llama", "plain"), "llama3", GgufType::F32);
    assert!(error.contains("this base has [64, 32]"), "{error}");
    let mut huge = adapter("llama", "plain");
    huge.update(|all| all[0] = 1e6);
    assert!(refused(&huge, "llama", GgufType::F16).contains("f16 cannot"));
    assert!(!path.exists());
    let nothing = Adapters::default();
    assert!(refused(&nothing, "llama", GgufType::F32).contains("nothing to export"));
}

#[test]
fn an_alpha_of_zero_is_not_llama_cpps_scale_of_one() {
    let plain = adapter("llama", "plain");
    let mut loras: Vec<Lora> = plain.loras("a test").unwrap().into_iter().cloned().collect();
    loras.iter_mut().for_each(|lora| (lora.alpha, lora.scale) = (0.0, 0.0));
    let mut adapters = Adapters::zeros(loras).unwrap();
    adapters.update(|all| all.fill(1.0));
    let (report, file) = export(&adapters, &spec("llama"), GgufType::F32);
    assert!(report.alpha != 0.0);
    assert!(file.f32("blk.0.ffn_up.weight.lora_b").iter().all(|b| *b == 0.0));
}

#[test]
fn what_is_written_is_read_back_with_its_rows_in_place() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("adapter.gguf");
    let origin = Origin {
        base: "models/x".into(),
        revision: None,
        fingerprint: Some("f00".into()),
        ..Origin::default()
    };
    for (name, case) in [
        ("llama", "plain"),
        ("llama", "rslora"),
        ("llama", "patterns"),
        ("qwen2", "plain"),
        ("phi3", "plain"),
        ("gpt2", "plain"),
    ] {
        let (adapters, spec) = (adapter(name, case), spec(name));
        for (kind, error) in [(GgufType::F32, 1e-6), (GgufType::BF16, 4e-3)] {
            write(&path, &adapters, &spec, kind, &origin).unwrap();
            let back = read(&path, &spec, false).unwrap();
            assert_eq!((back.base.as_deref(), back.fingerprint.as_deref()), (Some("models/x"), Some("f00")));
            assert_eq!(back.adapters.loras("a test").unwrap().len(), adapters.loras("a test").unwrap().len());
            for (found, lora) in
                back.adapters.loras("a test").unwrap().iter().zip(adapters.loras("a test").unwrap())
            {
                assert_eq!((&found.module, found.rank), (&lora.module, lora.rank));
                let b = |adapters: &Adapters, lora: &Lora| -> Vec<f64> {
                    adapters.values()[lora.b()].iter().map(|b| f64::from(*b) * lora.scale).collect()
                };
                for (here, there) in b(&back.adapters, found).iter().zip(b(&adapters, lora)) {
                    assert!((here - there).abs() <= error * there.abs(), "{name} {case} {}", lora.module);
                }
            }
        }
    }
    // Of another base.
    let error = read(&path, &spec("llama"), false).unwrap_err().to_string();
    assert!(error.contains("gpt2") && error.contains("llama"), "{error}");
}
