//! The prompts that an evaluation completes.

use crate::cli::DrawArgs;
use crate::data::ChatTokenizer;
use crate::error::Result;
use crate::files::Guard;
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

/// Adds the files of the prompts to what a command reads.
pub(super) fn add_to(inputs: &mut Guard, args: &DrawArgs) {
    args.prompts.iter().for_each(|path| inputs.add("one of the inputs", path));
    args.data.iter().for_each(|data| inputs.add_data(data));
}

/// Returns a text that differs for other prompts.
pub(super) fn fingerprint(prompts: &[Prompt]) -> String {
    let mut hasher = blake3::Hasher::new();
    for prompt in prompts {
        hasher.update(format!("{prompt:?}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
