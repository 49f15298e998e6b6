//! The speed of the engine's matrix products with cuBLASLt on this card, in TFLOP/s: every algorithm that it offers,
//! its first choice first, for the shapes of a step of a 0.5B, a 1B and an 8B model.
//!
//!     cargo bench --bench products              # all
//!     cargo bench --bench products -- 944       # those whose line contains a text
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use dpo_lora::device::cuda::Cuda;
use dpo_lora::device::{Backend, Buffer, Form, Kind, Matrix, Product};

/// Rows, columns and length of the sums; pitches of the three matrices; whether the result is f32.
struct Case(Form, [usize; 3], [usize; 3], bool);

fn cases() -> Vec<Case> {
    use Form::{Backward, Forward};
    let forward = |m, n, k, pitch, out, wide| Case(Forward, [m, n, k], [pitch, pitch, out], wide);
    let mut all = Vec::new();
    // q|k|v of 0.5B and 1B, with the ranks after the features; other lengths and pitches.
    for (k, pitch, out) in [
        (944, 944, 1200),
        (944, 944, 1152),
        (944, 960, 1216),
        (960, 960, 1216),
        (896, 944, 1200),
        (928, 944, 1200),
    ] {
        all.push(forward(7400, 1152, k, pitch, out, false));
    }
    for (k, pitch, out) in
        [(2096, 2096, 3120), (2096, 2112, 3136), (2112, 2112, 3136), (2048, 2096, 3120), (2080, 2080, 3104)]
    {
        all.push(forward(7400, 3072, k, pitch, out, false));
    }
    for rows in [300, 2500] {
        all.push(forward(rows, 1152, 944, 944, 1200, false));
        all.push(forward(rows, 1152, 960, 960, 1216, false));
    }
    // The head, whole and in part, in f32.
    for n in [151_936, 75_968, 37_984, 16_384] {
        all.push(forward(896, n, 896, 896, 151_936, true));
    }
    for (m, n) in [(1024, 128_256), (2048, 128_256), (1024, 32_064)] {
        all.push(forward(m, n, 2048, 2048, 128_256, true));
    }
    all.push(Case(Backward, [1024, 2048, 128_256], [128_256, 2048, 2048], false));
    all.push(forward(7400, 9728, 928, 928, 9760, false));
    all.push(forward(7400, 896, 912, 912, 896, false));
    all
}

fn main() {
    let device = match Cuda::open(0) {
        Ok(device) => Arc::new(device),
        Err(error) => return println!("no card: {error}"),
    };
    println!("{:?}", device.describe());
    let backend: Arc<dyn Backend> = device.clone();
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    for Case(form, shape, pitches, wide) in cases() {
        let line = format!("{form:?} {shape:?} pitches {pitches:?} {}", if wide { "f32" } else { "bf16" });
        if filter.as_ref().is_some_and(|filter| !line.contains(filter.as_str())) {
            continue;
        }
        let [m, n, k] = shape;
        let rows = [m, if form == Form::Forward { n } else { k }, m];
        let kinds = [Kind::Bf16, Kind::Bf16, if wide { Kind::F32 } else { Kind::Bf16 }];
        let noise: Vec<u16> =
            (0..1 << 20).map(|i: u32| 0x3c00 + (i.wrapping_mul(2_654_435_761) >> 23) as u16).collect();
        let buffers: Vec<Buffer> = (0..3)
            .map(|i| {
                let bytes = (rows[i] * pitches[i] + 8) * kinds[i].size();
                let buffer = Buffer::new(&backend, bytes).unwrap();
                for first in (0..bytes).step_by(2 << 20) {
                    let part = &noise[..(bytes - first).min(2 << 20) / 2];
                    backend
                        .upload(
                            buffer.at().plus(first),
                            2 * part.len(),
                            bytemuck::cast_slice(part),
                            2 * part.len(),
                        )
                        .unwrap();
                }
                buffer
            })
            .collect();
        let matrix = |i: usize| Matrix { at: buffers[i].at(), pitch: pitches[i], kind: kinds[i] };
        let split = form == Form::Backward && k > 100_000;
        let product =
            Product { form, shape, a: matrix(0), b: matrix(1), c: matrix(2), add: false, parts: 1, split };
        println!("{line}");
        match device.candidates(&product) {
            Ok(found) => found.iter().for_each(|(name, seconds)| {
                println!(
                    "  {:>6.0} TFLOP/s  {:.3} ms  {name}",
                    product.flop() as f64 / seconds / 1e12,
                    seconds * 1e3
                );
            }),
            Err(error) => println!("  {error}"),
        }
    }
}
