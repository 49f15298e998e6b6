//! The prompts of the command line or of a file.

use std::path::Path;

use serde_json::Value;

use crate::cli::GenerateArgs;
use crate::error::{Error, Result};
use crate::toolkit::embedded;

/// Returns the prompts of the command line or of a file.
pub(super) fn read(args: &GenerateArgs) -> Result<Vec<String>> {
    let Some(path) = &args.prompts else { return Ok(args.prompt.clone()) };
    let name = path.to_string_lossy();
    let path = embedded::path(&name)?.unwrap_or_else(|| path.clone());
    let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
    let prompts = lines(&text, &path)?;
    if prompts.is_empty() {
        return Err(Error::Data(format!("{} holds no prompts", path.display())));
    }
    Ok(prompts)
}

/// Reads JSON lines with a `prompt`, or one prompt per line.
fn lines(text: &str, path: &Path) -> Result<Vec<String>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            if !line.trim_start().starts_with('{') {
                return Ok(line.to_string());
            }
            let error =
                |message: String| Error::Record { file: path.display().to_string(), line: i + 1, message };
            let value: Value = serde_json::from_str(line).map_err(|e| error(e.to_string()))?;
            match value.get("prompt") {
                Some(Value::String(prompt)) => Ok(prompt.clone()),
                _ => Err(error("`prompt` is missing or not a string".into())),
            }
        })
        .collect()
}
