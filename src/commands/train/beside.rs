//! Paths in a configuration that exist beside it and not in the working directory.

use std::path::Path;

use crate::config::{Recipe, RunConfig};
use crate::data::EvalSource;
use crate::error::{Error, Result};

/// Checks the paths of every stage. The adapters of a later stage are those of the stages before it.
///
/// # Errors
/// If a path is missing in the working directory and exists beside the file.
pub(super) fn check(recipe: &Recipe, file: &Path) -> Result<()> {
    match recipe {
        Recipe::Single(config) => check_beside(config, file, true),
        Recipe::Staged(staged) => {
            let mut stages = staged.stages.iter().enumerate();
            stages.try_for_each(|(index, stage)| check_beside(&stage.config, file, index == 0))
        }
    }
}

/// Paths are relative to the working directory. One that is missing there but exists beside the configuration is an error
/// that says so.
fn check_beside(config: &RunConfig, file: &Path, adapters: bool) -> Result<()> {
    let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    let mut named = vec![("model.base", config.model.base.clone())];
    let path = |path: &std::path::PathBuf| path.display().to_string();
    if adapters {
        named.extend(config.model.adapter.iter().map(|adapter| ("model.adapter", path(adapter))));
        named.extend(config.lora.init_from.iter().map(|adapter| ("lora.init_from", path(adapter))));
    }
    named.extend(config.data.train.0.iter().map(|source| ("data.train", source.path().to_string())));
    if let Some(EvalSource::Sources(sources)) = &config.data.eval {
        named.extend(sources.0.iter().map(|source| ("data.eval", source.path().to_string())));
    }
    for (key, name) in named {
        let beside = directory.join(&name);
        if Path::new(&name).is_relative() && !Path::new(&name).exists() && beside.exists() {
            return Err(Error::Config(format!(
                "{}: {key} is {name}, which does not exist in the working directory; {} does. Relative paths are relative to \
                 the working directory: write {key}: {}, or run the command in {}",
                file.display(),
                beside.display(),
                beside.display(),
                directory.display()
            )));
        }
    }
    Ok(())
}
