//! Wraps the `tokenizers` library: parses tokenizers from JSON and turns its panics into errors.

use serde_json::Value as Json;
use tokenizers::Tokenizer;

use crate::data::guarded::caught;
use crate::error::{Error, Result};

/// Parses a tokenizer from JSON.
pub(super) fn parse(json: &Json) -> Result<Tokenizer> {
    let bytes =
        serde_json::to_vec(json).map_err(|e| Error::Data(format!("the tokenizer cannot be built: {e}")))?;
    from_bytes(&bytes)
}

/// Parses a tokenizer from JSON text.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Tokenizer> {
    guarded(|| Tokenizer::from_bytes(bytes)).map_err(|e| {
        Error::Data(format!("tokenizer.json is not a tokenizer of the `tokenizers` library: {e}"))
    })
}

/// Turns panics into errors: the `tokenizers` library panics on some damaged files, and on some texts encoded with
/// them.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match caught(work) {
        Some(found) => found.map_err(|error| error.to_string()),
        None => Err("the library failed on it; is tokenizer.json damaged?".into()),
    }
}
