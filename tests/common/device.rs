//! A device for tests: the card if `DPO_LORA_TEST_DEVICE=cuda`, otherwise the kernels compiled for the processor.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use dpo_lora::device::Backend;
use dpo_lora::device::cuda::Cuda;
use dpo_lora::device::host::Host;

/// Returns the device; `None` without a C++ compiler to build one.
pub fn device() -> Option<Arc<dyn Backend>> {
    static CARD: OnceLock<Option<Arc<Cuda>>> = OnceLock::new();
    let card = CARD.get_or_init(|| {
        let asked = std::env::var("DPO_LORA_TEST_DEVICE").is_ok_and(|device| device == "cuda");
        asked.then(|| Arc::new(Cuda::open(0).unwrap()))
    });
    if let Some(card) = card {
        return Some(card.clone());
    }
    library().map(|library| Arc::new(Host::open(&library).unwrap()) as Arc<dyn Backend>)
}

/// Whether the device is a card.
pub fn is_card() -> bool {
    std::env::var_os("DPO_LORA_TEST_DEVICE").is_some()
}

/// Returns the compiled kernels, which are built once for each state of their sources.
fn library() -> Option<PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = std::env::var_os("DPO_LORA_HOST_KERNELS").map(PathBuf::from);
    LIBRARY.get_or_init(|| built.or_else(build)).clone()
}

fn build() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{}.so", sources(root)));
    if library.exists() {
        return Some(library);
    }
    // The first process puts the file in place as a whole.
    let made = library.with_extension(std::process::id().to_string());
    let ran = Command::new(root.join("tests/device/build_host.sh")).arg(&made).status();
    if ran.is_ok_and(|status| status.success()) && std::fs::rename(&made, &library).is_ok() {
        return Some(library);
    }
    eprintln!("there is no C++ compiler (or it failed): the kernels are not tested");
    None
}

/// Returns a hash of everything from which the library is built.
fn sources(root: &Path) -> String {
    let folders =
        ["src/device/kernels", "tests/device"].map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let mut files: Vec<PathBuf> = folders.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        file.extension().is_some_and(|end| ["cu", "cuh", "h", "sh"].iter().any(|kind| end == *kind))
    });
    files.sort();
    let mut hasher = blake3::Hasher::new();
    files.iter().for_each(|file| {
        hasher.update(&std::fs::read(file).unwrap());
    });
    hasher.finalize().to_hex()[..16].to_string()
}
