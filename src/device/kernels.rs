//! The compiled kernels: PTX for compute capability 8.0, beside its source. `tests/device/ptx.py` compiles it.

/// Module name and PTX.
pub(super) const MODULES: &[(&str, &str)] = &[
    ("attention", include_str!("kernels/attention.ptx")),
    ("attention_64", include_str!("kernels/attention_64.ptx")),
    ("attention_96", include_str!("kernels/attention_96.ptx")),
    ("attention_128", include_str!("kernels/attention_128.ptx")),
    ("attention_256", include_str!("kernels/attention_256.ptx")),
    ("embed", include_str!("kernels/embed.ptx")),
    ("gated_act", include_str!("kernels/gated_act.ptx")),
    ("lora", include_str!("kernels/lora.ptx")),
    ("norm", include_str!("kernels/norm.ptx")),
    ("optimizer", include_str!("kernels/optimizer.ptx")),
    ("qkv", include_str!("kernels/qkv.ptx")),
    ("token_logps", include_str!("kernels/token_logps.ptx")),
];

/// A hash of all kernels: other kernels may give results with other bits.
pub fn fingerprint() -> String {
    let mut hasher = blake3::Hasher::new();
    MODULES.iter().for_each(|(name, text)| {
        hasher.update(name.as_bytes());
        hasher.update(text.as_bytes());
    });
    hasher.finalize().to_hex()[..16].to_string()
}
