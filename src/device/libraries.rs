//! Finds NVIDIA's libraries: the driver in the system's path; cuBLASLt in the toolkit, the distribution, or the wheel of a
//! Python environment.

use std::path::{Path, PathBuf};

use super::ffi::{BlasLt, Driver, Nccl};
use crate::error::{Error, Result};

/// NCCL's names.
const NCCL: &[&str] = &["libnccl.so.2", "libnccl.so"];

/// Newest first.
const BLAS: &[&str] = &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];

/// The driver.
///
/// # Errors
/// If it is not installed or too old.
pub(super) fn driver() -> Result<Driver> {
    let names = ["libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1"];
    let mut why = String::new();
    for name in names {
        match Driver::open(Path::new(name)) {
            Ok(driver) => return Ok(driver),
            Err(error) => why = error,
        }
    }
    Err(Error::Config(format!(
        "there is no NVIDIA driver here (libcuda.so.1: {why}); install NVIDIA's driver 550 or later, or choose the processor (--device cpu, or model.device: cpu)"
    )))
}

/// Loads cuBLASLt; returns it and its path.
///
/// # Errors
/// If it is not installed; the message says how to install it.
pub(super) fn blas() -> Result<(BlasLt, PathBuf)> {
    let mut why = String::new();
    for path in candidates() {
        match BlasLt::open(&path) {
            Ok(found) => return Ok((found, path)),
            Err(error) if path.is_absolute() && path.exists() => why = format!(" ({error})"),
            Err(_) => {}
        }
    }
    Err(Error::Config(format!(
        "cuBLASLt 12 or 13 is not found{why}: install CUDA's libcublas package, or `pip install nvidia-cublas-cu12` and set \
         CUDA_HOME or LD_LIBRARY_PATH to its lib folder, or choose the processor (--device cpu, or model.device: cpu)"
    )))
}

/// Loads NCCL: the named file, or the one that is installed.
///
/// # Errors
/// Why there is none.
pub(super) fn nccl(named: Option<&Path>) -> Result<Nccl, String> {
    if let Some(path) = named {
        return Nccl::open(path);
    }
    let mut found: Vec<PathBuf> = NCCL.iter().map(PathBuf::from).collect();
    let wheels = wheels(&["nccl"], "libnccl.so.2");
    found.extend(wheels.iter().flat_map(|pattern| glob::glob(pattern)).flatten().flatten());
    let mut why = String::from("libnccl.so.2 is not found");
    for path in found {
        match Nccl::open(&path) {
            Ok(library) => return Ok(library),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Names for the system's search, then files in the usual directories.
fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = BLAS.iter().map(PathBuf::from).collect();
    let homes =
        ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].iter().filter_map(std::env::var_os).map(PathBuf::from);
    let fixed = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from);
    for home in homes.chain(fixed) {
        for folder in ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", ""] {
            found.extend(BLAS.iter().map(|name| home.join(folder).join(name)));
        }
    }
    for pattern in wheels(&["cu13", "cublas"], "libcublasLt.so.1[23]") {
        found.extend(glob::glob(&pattern).into_iter().flatten().flatten());
    }
    found
}

/// Patterns of a library in NVIDIA's wheels, in these of their folders, in the active environment and in the system's and the user's Python.
fn wheels(folders: &[&str], library: &str) -> Vec<String> {
    let mut roots: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    roots.extend(std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local")));
    roots.extend(["/usr/local", "/usr", "/opt/conda"].map(PathBuf::from));
    let mut patterns = Vec::new();
    for root in roots {
        let root = glob::Pattern::escape(&root.to_string_lossy());
        for packages in ["site-packages", "dist-packages"] {
            for folder in folders {
                patterns.push(format!("{root}/lib/python3*/{packages}/nvidia/{folder}/lib/{library}"));
            }
        }
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        if let Err(error) = driver() {
            let text = error.to_string();
            assert!(
                error.exit_code() == 2 && text.contains("driver 550") && text.contains("--device cpu"),
                "{text}"
            );
        }
        assert!(candidates().iter().any(|path| path.ends_with("lib64/libcublasLt.so.12")));
    }
}
