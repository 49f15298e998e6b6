//! The prompts of the command line or of a file.

use crate::cli::GenerateArgs;
use crate::error::Result;
use crate::toolkit::prompts;

/// Returns the prompts of the command line or of a file.
pub(super) fn read(args: &GenerateArgs) -> Result<Vec<String>> {
    match &args.prompts {
        Some(path) => prompts::texts(path),
        None => Ok(args.prompt.clone()),
    }
}
