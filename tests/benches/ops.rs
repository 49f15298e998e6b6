//! Throughput of the operations, in GFLOP/s and as a share of this machine's best matrix product.
//!
//!     cargo bench --bench ops
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use dpo_lora::ops::gemm::{Elements, Operand, Precision, gemm};
use half::bf16;

/// Runs `work` until a second has passed; the best of its times in seconds.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed().as_secs_f64() < 0.7 {
        let once = Instant::now();
        work();
        best = best.min(once.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    for (m, n, k) in [
        (768, 576, 576),
        (768, 192, 576),
        (1920, 576, 1536),
        (1920, 4864, 896),
        (1920, 896, 4864),
        (384, 8192, 896),
        (384, 896, 8192),
        (1920, 16, 896),
        (1920, 896, 16),
        (16, 896, 1920),
        (1, 4864, 896),
    ] {
        let x = vec![0.5f32; m * k];
        let w32 = vec![0.25f32; n * k];
        let w16 = vec![bf16::from_f32(0.25); n * k];
        let a = Operand::by_row(Elements::F32(&x), m, k);
        let gflop = 2e-9 * (m * n * k) as f64;
        let time = |b: Operand, p| {
            let s = best(|| {
                std::hint::black_box(gemm(&a, &b, p));
            });
            gflop / s
        };
        println!(
            "{m:5} x {n:5} x {k:5}: f32 x·Wᵀ {:6.1}  dy·W {:6.1}   bf16 x·Wᵀ {:6.1}  dy·W {:6.1} GFLOP/s",
            time(Operand::by_row(Elements::F32(&w32), n, k), Precision::F32),
            time(Operand::by_column(Elements::F32(&w32), k, n), Precision::F32),
            time(Operand::by_row(Elements::Bf16(&w16), n, k), Precision::Bf16),
            time(Operand::by_column(Elements::Bf16(&w16), k, n), Precision::Bf16),
        );
    }
}
