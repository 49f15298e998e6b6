//! Keys of the metadata, and the error where llama.cpp has none.

use super::super::super::gguf_writer::Value;

/// Keys in the order in which they are added.
pub(super) struct Keys {
    architecture: &'static str,
    pub(super) keys: Vec<(String, Value)>,
}

impl Keys {
    /// None yet, of an architecture as llama.cpp names it.
    pub(super) fn new(architecture: &'static str) -> Self {
        Self { architecture, keys: Vec::new() }
    }

    pub(super) fn put(&mut self, key: &str, value: Value) {
        self.keys.push((key.into(), value));
    }

    pub(super) fn number(&mut self, key: &str, number: usize) {
        let key = format!("{}.{key}", self.architecture);
        self.put(&key, Value::U32(u32::try_from(number).unwrap_or(u32::MAX)));
    }

    pub(super) fn float(&mut self, key: &str, number: f64) {
        let key = format!("{}.{key}", self.architecture);
        self.put(&key, Value::F32(number as f32));
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        let key = format!("{}.{key}", self.architecture);
        self.put(&key, Value::Text(text.into()));
    }
}

/// The error for a setting that llama.cpp has no key for.
pub(super) fn untold(what: &str) -> String {
    format!("llama.cpp has no setting for {what} of this model; merge into safetensors and serve that")
}
