//! Every kernel of `src/device/kernels` against plain loops in f64, by itself: odd shapes, both types, optional arguments
//! on and off, pitches and pointers of any kind. On a card if one is named, else compiled for the processor.
//!
//! Of a sum of n products of numbers near s, computed in f32, a row is right if it is off by a small multiple of 2⁻²⁴ of
//! its largest number (each test says which); bf16 adds one rounding to 8 bits, at most 2⁻⁸ of the number itself. What is
//! only moved or scaled, dropout, the optimizers and dequantisation must be the same bits as on the processor.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod common;

#[path = "kernels/lora.rs"]
mod adapters;
#[path = "kernels/attention.rs"]
mod attention;
#[path = "kernels/bench.rs"]
mod bench;
#[path = "kernels/embed.rs"]
mod embed;
#[path = "kernels/gated_act.rs"]
mod gated_act;
#[path = "kernels/norm.rs"]
mod norm;
#[path = "kernels/optimizer.rs"]
mod optimizer;
#[path = "kernels/orders.rs"]
mod orders;
#[path = "kernels/ptx.rs"]
mod ptx;
#[path = "kernels/qkv.rs"]
mod qkv;
#[path = "kernels/token_logps.rs"]
mod token_logps;
