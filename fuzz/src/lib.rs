//! What each fuzz target does with its bytes, and the allocator that tells how much was asked for at once.
//!
//! `tests/fuzz_corpus.rs` includes this file, so that the committed corpus is a regression test of the ordinary tests.

mod data;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpo_lora::adapter::{mlx, peft};
use dpo_lora::config::{Recipe, RunConfig};
use dpo_lora::data::gguf::TokenizerFiles;
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::gguf::GgufModel;
use dpo_lora::train::checkpoint;
use dpo_lora::train::config::TrainConfig;
use dpo_lora::train::optimizer::Optimizer;
use dpo_lora::train::reference::ReferenceCache;
use dpo_lora::trainable::{Adapters, Lora, Policy};
use dpo_lora::weights::gguf::{GgufFile, Value};
use dpo_lora::weights::{SafetensorsSource, WeightSource};

/// Remembers the largest single request.
pub struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A target: its name, what it does, and the bytes it may ask for at once beyond twice its input.
pub struct Target {
    /// Name of the binary and of the corpus directory.
    pub name: &'static str,
    run: fn(&[u8]),
    slack: usize,
}

/// Read buffers, error messages, hash tables of a few entries.
const SMALL: usize = 64 << 10;

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors", run: safetensors, slack: SMALL },
    Target { name: "index", run: index, slack: SMALL },
    Target { name: "gguf", run: gguf, slack: SMALL },
    // Regular expressions compile to at most 10 MB, whatever they are.
    // A vocabulary becomes a tokenizer.json, with every token's text quoted several times.
    Target { name: "gguf_model", run: gguf_model, slack: 16 << 20 },
    Target { name: "adapter", run: adapter, slack: 16 << 20 },
    // The checkpoint is written here too, through a buffer of 1 MiB.
    Target { name: "checkpoint", run: checkpoint, slack: 2 << 20 },
    Target { name: "reference", run: reference, slack: SMALL },
    // A few hundred bytes describe a thousand layers and the rotation of every feature of a head.
    Target { name: "config_json", run: config_json, slack: 4 << 20 },
    Target { name: "records", run: data::records, slack: 2 << 20 },
    // A row may have 2^18 elements from a run of a few bytes, and a page 64 times its packed bytes.
    Target { name: "parquet", run: data::parquet, slack: 32 << 20 },
    Target { name: "csv", run: data::csv, slack: 2 << 20 },
    // An archive unpacks through a window of at most 128 MiB.
    Target { name: "json", run: data::json, slack: 2 << 20 },
    Target { name: "filter", run: data::filter, slack: 2 << 20 },
    // `lora.target_modules` may be a regular expression.
    Target { name: "run_config", run: run_config, slack: 16 << 20 },
    // A template's values may take 256 MiB, and one of them may be doubled.
    Target { name: "template", run: data::template, slack: 257 << 20 },
    Target { name: "tokenizer", run: data::tokenizer, slack: 64 << 20 },
    Target { name: "vocabulary", run: data::vocabulary, slack: 64 << 20 },
    Target { name: "dataset", run: data::dataset, slack: SMALL },
];

/// Runs a target on `input`.
///
/// # Panics
/// If the code under test panics, or asks for more memory at once than its input justifies.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a known target");
    // What is made once does not count.
    base();
    data::characters();
    LARGEST.store(0, Ordering::Relaxed);
    (target.run)(input);
    let (largest, bound) = (LARGEST.load(Ordering::Relaxed), 2 * input.len() + target.slack);
    assert!(largest <= bound, "{name}: {largest} bytes at once for {} bytes of input", input.len());
}

/// A directory of this process, in memory where there is one.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let within = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let place = within.join(format!("dpo-lora-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(place.join("checkpoint/adapter")).expect("a directory");
        std::fs::create_dir_all(place.join("adapter")).expect("a directory");
        std::fs::create_dir_all(place.join("index")).expect("a directory");
        std::fs::create_dir_all(place.join("mlx")).expect("a directory");
        place
    })
}

fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = place().join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

fn fixture(name: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    // From the fuzz package or from the package itself.
    let root = if package.ends_with("fuzz") { package.parent().expect("a parent") } else { package };
    root.join("tests/fixtures").join(name)
}

/// The llama fixture; adapters and checkpoints are read for it.
fn base() -> &'static Decoder {
    static BASE: OnceLock<Decoder> = OnceLock::new();
    BASE.get_or_init(|| {
        let directory = fixture("models/llama");
        let spec = families::spec(&ConfigJson::open(&directory).expect("a config")).expect("a spec");
        let source = SafetensorsSource::open(&directory).expect("weights");
        Decoder::load(spec, &source, None).expect("a decoder")
    })
}

fn read_all(source: &SafetensorsSource) {
    for name in source.names() {
        let _ = source.shape(&name);
        let _ = source.stored(&name).map(|stored| stored.bytes.len());
        if let Ok(weight) = source.get(&name) {
            assert_eq!(weight.elements().len(), weight.shape().iter().product::<usize>(), "{name}");
            if !weight.elements().is_empty() {
                let _ = weight.elements().get(weight.elements().len() - 1);
            }
        }
    }
}

fn safetensors(data: &[u8]) {
    let path = put("model.safetensors", data);
    if let Ok(source) = SafetensorsSource::open_files(place(), std::slice::from_ref(&path)) {
        read_all(&source);
    }
    let _ = peft::metadata(&path);
}

fn index(data: &[u8]) {
    static SHARDS: OnceLock<()> = OnceLock::new();
    SHARDS.get_or_init(|| {
        for name in ["a", "b"] {
            let header = format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}");
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
            put(&format!("index/{name}.safetensors"), &bytes);
        }
    });
    put("index/model.safetensors.index.json", data);
    if let Ok(source) = SafetensorsSource::open(&place().join("index")) {
        assert!(
            source
                .files()
                .iter()
                .all(|file| file.path.starts_with(std::fs::canonicalize(place()).expect("a path")))
        );
        read_all(&source);
    }
}

fn gguf(data: &[u8]) {
    let Ok(file) = GgufFile::open(&put("model.gguf", data)) else { return };
    let metadata = file.metadata();
    let mut left = 10_000usize;
    for key in metadata.keys() {
        let _ = metadata.text(key);
        if let Some(Value::Array(array)) = metadata.get(key) {
            for value in array.iter() {
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
                if let Value::Array(inner) = value {
                    let _ = inner.iter().take(100).count();
                }
            }
        }
    }
    for tensor in file.tensors() {
        let _ = file.bytes(&tensor.name);
        let _ = file.weight(&tensor.name);
        let _ = file.rows_to_f32(&tensor.name, 0..1);
    }
}

/// Architecture and tokenizer of the metadata, whatever tensors there are.
fn gguf_model(data: &[u8]) {
    let path = put("base.gguf", data);
    let _ = GgufModel::open(&path).map(|model| model.source.names().len());
    let Ok(file) = GgufFile::open(&path) else { return };
    let _ = TokenizerFiles::ends(&file);
    if let Ok(files) = TokenizerFiles::read(&file)
        && let Ok(tokenizer) = files.load(None)
    {
        let _ = tokenizer.encode("a b<s>ü", true);
    }
}

/// The first two bytes are the length of the first part.
fn parts(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

fn adapter(data: &[u8]) {
    let Some((config, weights)) = parts(data) else { return };
    put("adapter/adapter_config.json", config);
    put("adapter/adapter_model.safetensors", weights);
    if let Ok(adapter) = peft::read(&place().join("adapter"), base().spec()) {
        assert!(adapter.adapters.values().iter().all(|x| x.is_finite()));
    }
    put("mlx/adapter_config.json", config);
    put("mlx/adapters.safetensors", weights);
    let _ = mlx::read(&place().join("mlx"), base().spec());
}

/// A checkpoint whose manifest fits: without that, no other byte of it is ever looked at. The first byte says which file the
/// rest is: manifest, state or moments.
fn checkpoint(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let directory = place().join("checkpoint");
    let spec = base().spec();
    let linear = spec.linears().next().expect("a linear module").clone();
    let mut trained = Adapters::initialised([Lora::new(&linear, 2, 4.0, 2.0)], 1).expect("an adapter");
    let mut optimizer = Optimizer::new(&TrainConfig::default().optimizer(), trained.store_mut());
    let origin = peft::Origin { base: "x".into(), ..peft::Origin::default() };
    peft::write(&directory.join("adapter"), &trained, spec, 0.0, &origin).expect("an adapter");
    let state = serde_json::to_vec(&checkpoint::State::default()).expect("a state");
    put("checkpoint/state.json", if *which % 3 == 1 { bytes } else { &state });
    put("checkpoint/optimizer.safetensors", if *which % 3 == 2 { bytes } else { b"" });
    let files = [
        "state.json",
        "optimizer.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ];
    let manifest: std::collections::BTreeMap<_, _> = files
        .iter()
        .map(|name| {
            (*name, blake3::hash(&std::fs::read(directory.join(name)).expect("a file")).to_hex().to_string())
        })
        .collect();
    let manifest = serde_json::to_vec(&manifest).expect("a manifest");
    put("checkpoint/manifest.json", if *which % 3 == 0 { bytes } else { &manifest });
    if let Ok(state) = checkpoint::open(&directory) {
        let _ = checkpoint::restore(&directory, &state, spec, &mut Policy::of(trained), &mut optimizer);
    }
}

/// The hash at the end is made to fit, or nothing behind it would ever be looked at.
fn reference(data: &[u8]) {
    let bytes = [data, blake3::hash(data).as_bytes()].concat();
    let _ = ReferenceCache::in_file(put("reference.logps", &bytes));
}

fn config_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = ConfigJson::parse(text, "config.json") {
        let _ = families::spec(&config).map(|spec| spec.linears().count());
    }
}

fn run_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = RunConfig::from_yaml(text, "run.yaml", &[]) {
        let yaml = config.to_yaml().expect("what was read can be written");
        let again = RunConfig::from_yaml(&yaml, "resolved", &[]).expect("what was written can be read");
        assert_eq!(again.to_yaml().expect("what was read can be written"), yaml);
        let _ = config.compare_for_resume(text);
    }
    if let Ok(Recipe::Staged(staged)) = Recipe::from_yaml(text, "run.yaml", &[]) {
        let yaml = staged.to_yaml().expect("what was read can be written");
        match Recipe::from_yaml(&yaml, "resolved", &[]).expect("what was written can be read") {
            Recipe::Staged(again) => assert_eq!(again.to_yaml().expect("what was read can be written"), yaml),
            Recipe::Single(_) => panic!("the stages are lost"),
        }
    }
    // The first line as a setting, the rest as the file.
    if let Some((setting, text)) = text.split_once('\n') {
        let _ = RunConfig::from_yaml(text, "run.yaml", &[setting.to_string()]);
    }
}
