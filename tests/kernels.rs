//! Compares every kernel of `src/device/kernels` with plain loops in f64: odd shapes, both types, optional arguments on
//! and off, and pitches and pointers of any alignment. The kernels run on a card if one is named, and are otherwise
//! compiled for the processor.
//!
//! A row that is a sum of n products of numbers near s, computed in f32, may be off by a small multiple of 2⁻²⁴ of its
//! largest number (each test gives the multiple). bf16 adds one rounding to 8 bits, at most 2⁻⁸ of the number itself.
//! Where numbers are only moved or scaled, and for dropout, the optimizers and dequantisation, the bits must equal the
//! processor's.
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
