//! Over a hundred malicious adapter files. Each gives an error, without a panic and without more memory than the files
//! themselves hold.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dpo_lora::adapter::gguf::GgufType;
use dpo_lora::adapter::{peft, read};
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::spec::DecoderSpec;
use gguf_files::gguf_file;

#[path = "hostile_adapters/configurations.rs"]
mod configurations;
#[path = "hostile_adapters/gguf_files.rs"]
mod gguf_files;
#[path = "hostile_adapters/mlx_files.rs"]
mod mlx_files;
#[path = "hostile_adapters/tensors.rs"]
mod tensors;

mod counting {
    //! Measures the most memory that was allocated at once.
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    pub struct Counting;
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);

    // SAFETY: this is the system's allocator; only the sizes are counted in addition.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            MOST.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
            // SAFETY: the caller guarantees the same contract.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            NOW.fetch_sub(layout.size(), Relaxed);
            // SAFETY: as above.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    /// Returns the most bytes that `work` allocates at once in addition to the present ones.
    pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
        let before = NOW.load(Relaxed);
        MOST.store(before, Relaxed);
        let made = work();
        (made, MOST.load(Relaxed).saturating_sub(before))
    }
}

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// The memory that a small file may need: messages, and two thousand compiled expressions of some 25 kB.
const ALLOWANCE: usize = 96 << 20;

/// Only one test runs at a time, because all share the count of allocated bytes.
static ALONE: Mutex<()> = Mutex::new(());

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama")
}

fn spec() -> DecoderSpec {
    families::spec(&ConfigJson::open(&model()).unwrap()).unwrap()
}

/// Gives each case a directory or file of its own, and collects the outcomes.
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

    /// Requires that the adapter at `path` is refused, soon, in little memory, and with a message.
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
        // The time is not compared with a limit: a hang would take hours.
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

/// Returns a safetensors file with this header.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

/// Random bytes are changed. The result must be an error or an adapter.
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
