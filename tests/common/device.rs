//! A device to test with: the card named by `DPO_LORA_TEST_DEVICE=cuda`, else the kernels compiled for the processor.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use dpo_lora::device::Backend;
use dpo_lora::device::cuda::Cuda;
use dpo_lora::device::host::Host;

/// The device; `None` where there is no C++ compiler to make one.
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

/// The compiled kernels, made once.
fn library() -> Option<PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            if let Some(built) = std::env::var_os("DPO_LORA_HOST_KERNELS") {
                return Some(built.into());
            }
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let name = format!("kernels-{}.so", std::process::id());
            let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            let built = Command::new(root.join("tests/device/build_host.sh")).arg(&library).status();
            match built {
                Ok(status) if status.success() => Some(library),
                _ => {
                    eprintln!("there is no C++ compiler (or it failed): the kernels are not tested");
                    None
                }
            }
        })
        .clone()
}
