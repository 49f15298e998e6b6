//! Where an adapter directory holds its weights, and what is told where it does not.

use std::path::{Path, PathBuf};

use super::{CONFIG, WEIGHTS};
use crate::error::{Error, Result};

/// The path of the weights.
///
/// # Errors
/// If there are none, or they are stored in another way.
pub(super) fn weights(directory: &Path) -> Result<PathBuf> {
    let path = directory.join(WEIGHTS);
    let shown = directory.display();
    if path.exists() {
        return Ok(path);
    }
    if directory.join("adapter_model.bin").exists() {
        return Err(Error::Adapter(format!(
            "{shown} holds a pickled adapter_model.bin, which is not read; save it with PEFT's save_pretrained"
        )));
    }
    let index = format!("{WEIGHTS}.index.json");
    if directory.join(&index).exists() {
        return Err(Error::Adapter(format!(
            "{shown} holds its weights in several files ({index}), and one, {WEIGHTS}, is read; load it with PEFT and save it with \
             PEFT's save_pretrained, which writes one"
        )));
    }
    Err(Error::Config(format!(
        "{shown} holds no weights: there is no {WEIGHTS} beside {CONFIG}; copy or download it again, or save the adapter with \
         PEFT's save_pretrained"
    )))
}
