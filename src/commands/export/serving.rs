//! How an exported GGUF adapter is served: llama.cpp's command line, and an Ollama `Modelfile`.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{self, shell_word};
use crate::toolkit::{Base, Place};

/// The Modelfile beside an adapter.
pub(super) fn modelfile(adapter: &Path) -> PathBuf {
    adapter.with_extension("Modelfile")
}

/// Writes the Modelfile, and returns the commands that serve the adapter.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(base: &Base, adapter: &Path) -> Result<String> {
    let (model, is_gguf) = match &base.place {
        Place::Gguf(_) => (absolute(Path::new(&base.name))?, true),
        Place::Directory(directory) => (absolute(directory)?, false),
    };
    let name = adapter.file_name().unwrap_or_default().to_string_lossy();
    let note =
        if is_gguf { "" } else { "# The base as llama.cpp has it, a .gguf file, can stand here as well.\n" };
    let text = format!("{note}FROM {}\nADAPTER ./{name}\n", model.display());
    let place = modelfile(adapter);
    files::write_bytes(&place, text.as_bytes())?;
    let stem = adapter.file_stem().unwrap_or_default().to_string_lossy();
    let model = if is_gguf { shell_word(&model) } else { "BASE.gguf".into() };
    Ok(format!(
        "llama.cpp: llama-server -m {model} --lora {}\nOllama:    ollama create {} -f {}",
        shell_word(adapter),
        shell_word(Path::new(&*stem)),
        shell_word(&place)
    ))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(Error::read(path))
}
