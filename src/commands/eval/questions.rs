//! The prompts that an evaluation completes.

use crate::cli::DrawArgs;
use crate::data::ChatTokenizer;
use crate::error::Result;
use crate::toolkit::prompts::{self, Prompt};

/// Reads the prompts of the arguments.
///
/// # Errors
/// As [`prompts::of_file`] and [`prompts::of_records`].
pub(super) fn read(args: &DrawArgs, tokenizer: &ChatTokenizer) -> Result<Vec<Prompt>> {
    let mut found = match (&args.prompts, &args.data) {
        (Some(path), _) => prompts::of_file(path, tokenizer, args.chat())?,
        (None, data) => prompts::of_records(data.as_deref().unwrap_or_default(), tokenizer)?,
    };
    found.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(found)
}

/// Returns a text that differs for other prompts.
pub(super) fn fingerprint(prompts: &[Prompt]) -> String {
    let mut hasher = blake3::Hasher::new();
    for prompt in prompts {
        hasher.update(format!("{prompt:?}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
