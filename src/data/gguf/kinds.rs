//! The types of tokens (llama.cpp's `llama_token_type`).

/// A token of ordinary text.
pub(super) const NORMAL: f64 = 1.0;
/// The token of what the vocabulary lacks.
pub(super) const UNKNOWN: f64 = 2.0;
/// A token that is no text, such as the end of a turn.
pub(super) const CONTROL: f64 = 3.0;
/// A token that the model's maker added; its text is found before the rest is split.
pub(super) const USER_DEFINED: f64 = 4.0;
