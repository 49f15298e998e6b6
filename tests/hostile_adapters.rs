//! Over a hundred adapter files made to do harm: an error each, no panic, and no memory beyond what the files themselves hold.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dpo_lora::adapter::gguf::{self, GgufType};
use dpo_lora::adapter::{mlx, peft, read};
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::spec::DecoderSpec;
use serde_json::{Value, json};

mod counting {
    //! The most that was allocated at once.
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    pub struct Counting;
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);

    // SAFETY: the system's allocator, with its sizes counted beside it.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            MOST.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
            // SAFETY: the caller's promise is handed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            NOW.fetch_sub(layout.size(), Relaxed);
            // SAFETY: as above.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    /// Bytes that `work` allocates beyond what is there, at most.
    pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
        let before = NOW.load(Relaxed);
        MOST.store(before, Relaxed);
        let made = work();
        (made, MOST.load(Relaxed).saturating_sub(before))
    }
}

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// What a small file may cost: messages, and two thousand compiled expressions of some 25 kB.
const ALLOWANCE: usize = 96 << 20;

/// One test at a time: all share the count of what is allocated.
static ALONE: Mutex<()> = Mutex::new(());

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama")
}

fn spec() -> DecoderSpec {
    families::spec(&ConfigJson::open(&model()).unwrap()).unwrap()
}

/// A directory or file of its own for each case, and what became of it.
struct Cases {
    place: tempfile::TempDir,
    spec: DecoderSpec,
    count: usize,
    wrong: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Cases {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { place: tempfile::tempdir().unwrap(), spec: spec(), count: 0, wrong: Vec::new(), _alone: alone }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join(self.count.to_string())
    }

    /// The adapter at `path` must be refused, soon, in little memory, in words.
    fn refused(&mut self, name: &str, path: &Path) {
        self.count += 1;
        let start = Instant::now();
        let (found, peak) = counting::peak(|| {
            catch_unwind(AssertUnwindSafe(|| read::read(path, &self.spec, false).map(|_| ())))
        });
        let size: u64 = if path.is_dir() {
            fs::read_dir(path).unwrap().filter_map(|e| e.unwrap().metadata().ok()).map(|m| m.len()).sum()
        } else {
            path.metadata().map_or(0, |m| m.len())
        };
        let wrong = match found {
            Err(_) => Some("panics".to_string()),
            Ok(Ok(())) => Some("is read".into()),
            Ok(Err(error)) => {
                let text = error.to_string();
                (text.len() > 20_000 || text.is_empty()).then(|| format!("says {} bytes", text.len()))
            }
        };
        // No timing test: a hang would be hours.
        let hangs = (start.elapsed() > Duration::from_secs(60)).then(|| "takes for ever".to_string());
        let fat = (peak > ALLOWANCE + 8 * size as usize).then(|| format!("takes {peak} bytes for {size}"));
        self.wrong.extend([wrong, hangs, fat].into_iter().flatten().map(|what| format!("{name} {what}")));
    }

    fn directory(&mut self, name: &str, config: impl AsRef<[u8]>, file: &str, weights: impl AsRef<[u8]>) {
        let path = self.path();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("adapter_config.json"), config).unwrap();
        fs::write(path.join(file), weights).unwrap();
        self.refused(name, &path);
    }

    fn peft(&mut self, name: &str, config: impl AsRef<[u8]>, weights: impl AsRef<[u8]>) {
        self.directory(name, config, peft::WEIGHTS, weights);
    }

    fn gguf(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path().with_extension("gguf");
        fs::write(&path, bytes).unwrap();
        self.refused(name, &path);
    }

    fn done(self, least: usize) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        assert!(self.count >= least, "{} cases", self.count);
    }
}

fn good() -> (Vec<u8>, Vec<u8>) {
    let adapter = model().join("adapters/plain");
    (fs::read(adapter.join("adapter_config.json")).unwrap(), fs::read(adapter.join(peft::WEIGHTS)).unwrap())
}

fn with(config: &[u8], key: &str, value: Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(config).unwrap();
    config[key] = value;
    serde_json::to_vec(&config).unwrap()
}

/// A safetensors file with this header.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

/// A case's name, its header, and the number of bytes after it.
type Header = (&'static str, String, usize);

/// The tensors of a valid adapter.
fn pair() -> (String, String) {
    (tensor(A, "F32", "[4,32]", "[0,512]"), tensor(B, "F32", "[48,4]", "[512,1280]"))
}

/// Cut files, a tail, and lengths of the header that are wrong.
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

/// Headers whose JSON, offsets or shapes are wrong.
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

/// Headers whose storage types are wrong, or do not fit the bytes.
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

/// Headers whose tensors do not belong to a LoRA adapter, or have wrong names.
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

#[test]
fn configurations() {
    let (config, weights) = good();
    let mut cases = Cases::new();
    for (name, text) in [
        ("empty", String::new()),
        ("cut", String::from_utf8_lossy(&config[..config.len() / 2]).into()),
        ("null", "null".into()),
        ("deep", "{\"a\":".repeat(50_000)),
        ("a number", "1e999".into()),
        ("no type", "{}".into()),
        ("not UTF-8", String::from_utf8_lossy(&[b'{', 0xff, b'}']).into()),
    ] {
        cases.peft(&format!("configuration: {name}"), text, &weights);
    }
    for (key, value) in [
        ("r", json!(-4)),
        ("r", json!(0)),
        ("r", json!(5)),
        ("r", json!(u64::MAX)),
        ("r", json!("4")),
        ("lora_alpha", json!("x")),
        ("lora_alpha", json!([6])),
        ("peft_type", json!("IA3")),
        ("peft_type", json!(7)),
        ("use_dora", json!(true)),
        ("use_rslora", json!("yes")),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 4]])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("loftq")),
        ("rank_pattern", json!([4])),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!({"q_proj": -1})),
        ("rank_pattern", json!({"q_proj": 1e30})),
        ("rank_pattern", json!({"(": 4})),
        ("rank_pattern", json!({"(?P<a": 4})),
        ("rank_pattern", json!({"\\": 4})),
        ("rank_pattern", json!({"(?R)": 4})),
        ("rank_pattern", json!({"(a{1000}){1000}": 4})),
        ("rank_pattern", json!({"((a{100}){100}){100}": 4})),
        ("alpha_pattern", json!({"(((((a{9}){9}){9}){9}){9}){9}{9}{9}": 4})),
        ("alpha_pattern", json!({"q_proj": "6"})),
    ] {
        cases.peft(&format!("{key} {value}"), with(&config, key, value.clone()), &weights);
    }
    // Catastrophic backtracking, once and many times over: a wrong rank besides makes an error of those that come to an end.
    let path = "(?=(([a-z_.0-9]+)+)+x)\\1!|(([a-z_.0-9]+)*)*\\3y";
    cases.peft("a catastrophic pattern", with(&config, "rank_pattern", json!({path: 4})), &weights);
    let many: serde_json::Map<String, Value> =
        (0..2_000).map(|i| (format!("(?!{i})(([a-z_.]+)+)+(?<=!){i}"), json!(9))).collect();
    cases.peft(
        "2,000 slow patterns",
        with(&with(&config, "r", json!(5)), "alpha_pattern", many.into()),
        &weights,
    );
    let nested = "(".repeat(20_000) + &")".repeat(20_000);
    cases.peft("20,000 groups", with(&config, "rank_pattern", json!({nested: 4})), &weights);
    let directory = cases.path();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("adapter_config.json"), &config).unwrap();
    cases.refused("no weights", &directory);
    fs::write(directory.join("adapter_model.bin"), b"PK").unwrap();
    cases.refused("a pickle", &directory);
    fs::create_dir(directory.join(peft::WEIGHTS)).unwrap();
    cases.refused("a directory for weights", &directory);
    cases.refused("nothing there", Path::new("/nowhere/at/all"));
    cases.done(40);
}

#[test]
fn mlx_adapters() {
    let mut cases = Cases::new();
    let config = json!({"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.0}}).to_string();
    let name = "model.layers.0.self_attn.q_proj";
    let pair = |a: &str, b: &str| {
        format!(
            "{{{},{}}}",
            tensor(&format!("{name}.lora_a"), "F32", a, "[0,512]"),
            tensor(&format!("{name}.lora_b"), "F32", b, "[512,1280]")
        )
    };
    for (what, config, header, data) in [
        ("transposed", config.clone(), pair("[4,32]", "[48,4]"), 1280),
        ("cut", config.clone(), pair("[32,4]", "[4,48]"), 1000),
        (
            "one half",
            config.clone(),
            format!("{{{}}}", tensor(&format!("{name}.lora_a"), "F32", "[32,4]", "[0,512]")),
            512,
        ),
        (
            "a stranger",
            config.clone(),
            format!("{{{}}}", tensor("model.layers.9.x.lora_a", "F32", "[32,4]", "[0,512]")),
            512,
        ),
        (
            "a scale of text",
            json!({"lora_parameters": {"scale": "2"}}).to_string(),
            pair("[32,4]", "[4,48]"),
            1280,
        ),
        (
            "dora",
            json!({"fine_tune_type": "dora", "lora_parameters": {"scale": 2}}).to_string(),
            pair("[32,4]", "[4,48]"),
            1280,
        ),
        ("no map", "3".into(), pair("[32,4]", "[4,48]"), 1280),
        ("nothing", config.clone(), "{}".into(), 0),
    ] {
        cases.directory(what, config, mlx::WEIGHTS, safetensors(&header, data));
    }
    cases.done(8);
}

fn gguf_file(kind: GgufType) -> Vec<u8> {
    let spec = spec();
    let adapters = peft::read(&model().join("adapters/plain"), &spec).unwrap().adapters;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.gguf");
    gguf::write(&path, &adapters, &spec, kind, &peft::Origin::default()).unwrap();
    fs::read(path).unwrap()
}

/// Where a text begins in a file.
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
    // A tensor's entry: name, dimensions, sizes, type, offset.
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

/// Bytes changed at random: whatever comes of it, it is an error or an adapter.
#[test]
fn changed_at_random() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let spec = spec();
    let (config, weights) = good();
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("adapter_config.json"), config).unwrap();
    let gguf_good = gguf_file(GgufType::Q8_0);
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut errors = 0;
    for round in 0..300 {
        let (good, path) = match round % 2 {
            0 => (&weights, place.path().join(peft::WEIGHTS)),
            _ => (&gguf_good, place.path().join("a.gguf")),
        };
        let mut bytes = good.clone();
        // Mostly in the header.
        let reach = if round % 3 == 0 { bytes.len() } else { bytes.len().min(4096) };
        for _ in 0..1 + next(4) {
            let at = next(reach);
            bytes[at] = next(256) as u8;
        }
        fs::write(&path, bytes).unwrap();
        let adapter = if round % 2 == 0 { place.path() } else { &path };
        errors += usize::from(read::read(adapter, &spec, false).is_err());
    }
    assert!(errors > 100, "{errors}");
}
