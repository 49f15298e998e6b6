//! The `tokenizers` library: tokenizers of its JSON, and its panics as errors.

use serde_json::Value as Json;
use tokenizers::Tokenizer;

use crate::data::guarded::caught;
use crate::error::{Error, Result};

/// A tokenizer of its JSON.
pub(super) fn parse(json: &Json) -> Result<Tokenizer> {
    let bytes = serde_json::to_vec(json)
        .map_err(|e| Error::Data(format!("the tokenizer cannot be put together: {e}")))?;
    from_bytes(&bytes)
}

/// A tokenizer of the text of its JSON.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Tokenizer> {
    guarded(|| Tokenizer::from_bytes(bytes))
        .map_err(|e| Error::Data(format!("not a tokenizer of the `tokenizers` library: {e}")))
}

/// The `tokenizers` library panics on some damaged files, and on some texts under them; here that is an error too.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match caught(work) {
        Some(found) => found.map_err(|error| error.to_string()),
        None => Err("the library gave up on it; is tokenizer.json damaged?".into()),
    }
}
