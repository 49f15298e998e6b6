//! The throughput of the operations: products in GFLOP/s and as a share of this machine's best matrix product;
//! elementwise operations in GB/s of the memory they must read and write, and as a share of a plain copy's rate.
//!
//!     cargo bench --bench ops
//!     cargo bench --bench ops -- quantised     # products with quantised weights alone
//!     cargo bench --bench ops -- few           # a few rows times quantised weights, as in generation, by every set, or
//!                                              # by that of DPO_LORA_ISA
//!     cargo bench --bench ops -- sets          # products with bf16 weights by every instruction set against f32
//!     RAYON_NUM_THREADS=1 cargo bench --bench ops -- adapted   # a step's products by the processor's time
//!     cargo bench --bench ops -- attention     # attention alone
//!     cargo bench --bench ops -- gradients     # the gradients of low-rank matrices alone
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use dpo_lora::ops::Tensor;
use dpo_lora::ops::gated_act::{self, Activation};
use dpo_lora::ops::gemm::{
    Elements, Isa, Operand, Packed, Precision, Segment, gemm, gemm_on, sum_of_products,
};
use dpo_lora::ops::gradient::Gradient;
use dpo_lora::ops::rope::{self, Pairing, Rotation};
use dpo_lora::ops::tree_attention::{self, Attended, Heads, Span, TreeSpans};
use dpo_lora::ops::{profile, rms_norm};
use dpo_lora::weights::{BlockKind, Blocks};
use half::bf16;

/// Runs `work` for most of a second and returns the best time in seconds.
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
    if std::env::args().any(|arg| arg == "quantised") {
        return quantised();
    }
    if std::env::args().any(|arg| arg == "few") {
        return few();
    }
    if std::env::args().any(|arg| arg == "sets") {
        return sets();
    }
    if std::env::args().any(|arg| arg == "adapted") {
        return adapted();
    }
    let peaks = [Precision::F32, Precision::Bf16].map(profile::peak);
    if std::env::args().any(|arg| arg == "gradients") {
        return gradients(peaks[0]);
    }
    if std::env::args().any(|arg| arg == "attention") {
        return attention(peaks);
    }
    println!("best matrix product (960 x 2048 x 2048): f32 {:.0}, bf16 {:.0} GFLOP/s", peaks[0], peaks[1]);
    products(peaks);
    attention(peaks);
    elementwise();
}

/// Tokens × outputs × inputs: projections, blocks of the head, low-rank shapes, and a single token.
const SIZES: [(usize, usize, usize); 11] = [
    (768, 576, 576),
    (768, 192, 576),
    (1920, 576, 1536),
    (1920, 4864, 896),
    (1920, 896, 4864),
    (384, 4096, 896),
    (384, 896, 4096),
    (1920, 32, 896),
    (1920, 896, 16),
    (16, 896, 1920),
    (1, 4864, 896),
];

/// Gradients of low-rank matrices: few rows, a sum over the tokens, and activations that come from memory.
fn gradients(peak: f64) {
    for (tokens, rank, width) in [(960, 16, 576), (960, 16, 1536), (1600, 16, 4864), (960, 64, 576)] {
        let thin = vec![0.5f32; tokens * rank];
        let by_column = |data, lanes| Operand::by_column(Elements::F32(data), tokens, lanes);
        // More than the caches hold.
        let wide: Vec<Vec<f32>> =
            (0..(128 << 20) / (4 * tokens * width)).map(|_| vec![0.25; tokens * width]).collect();
        let all = best(|| {
            for wide in &wide {
                drop(std::hint::black_box(gemm(
                    &by_column(&thin, rank),
                    &by_column(wide, width),
                    Precision::F32,
                )));
            }
        });
        let rate = 2e-9 * (tokens * rank * width * wide.len()) as f64 / all;
        println!(
            "{tokens} tokens, {rank} x {width}: {rate:6.1} GFLOP/s, {:3.0}% of the best product; {:5.1} GB/s",
            100.0 * rate / peak,
            rate / (2 * rank) as f64 * 4.0
        );
    }
}

fn products(peaks: [f64; 2]) {
    for (m, n, k) in SIZES {
        let x = vec![0.5f32; m * k];
        let w32 = vec![0.25f32; n * k];
        let w16 = vec![bf16::from_f32(0.25); n * k];
        let a = Operand::by_row(Elements::F32(&x), m, k);
        let gflop = 2e-9 * (m * n * k) as f64;
        let rate = |b: Operand, p: Precision| {
            let rate = gflop / best(|| drop(std::hint::black_box(gemm(&a, &b, p))));
            format!("{rate:6.1} {:3.0}%", 100.0 * rate / peaks[usize::from(p == Precision::Bf16)])
        };
        println!(
            "{m:5} x {n:5} x {k:5}: f32 x·Wᵀ {}  dy·W {}   bf16 x·Wᵀ {}  dy·W {}",
            rate(Operand::by_row(Elements::F32(&w32), n, k), Precision::F32),
            rate(Operand::by_column(Elements::F32(&w32), k, n), Precision::F32),
            rate(Operand::by_row(Elements::Bf16(&w16), n, k), Precision::Bf16),
            rate(Operand::by_column(Elements::Bf16(&w16), k, n), Precision::Bf16),
        );
    }
}

/// Seconds of all threads of this process, which other programs do not lengthen much; elapsed ones where the system does
/// not tell.
fn processor(start: Instant) -> f64 {
    #[cfg(unix)]
    {
        let _ = start;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        now.tv_sec as f64 + 1e-9 * now.tv_nsec as f64
    }
    #[cfg(not(unix))]
    start.elapsed().as_secs_f64()
}

/// Products with a low-rank part of rank 16, as in a step with bf16 weights: GFLOP/s of the main product.
fn adapted() {
    for (m, n, k) in
        [(768, 576, 576), (960, 1536, 576), (960, 576, 1536), (1600, 4864, 896), (1600, 896, 4864)]
    {
        let (x, z, thin) = (gaussian(m * k), gaussian(m * 16), gaussian(n * 16));
        let weight: Vec<bf16> = gaussian(n * k).into_iter().map(bf16::from_f32).collect();
        let packed = |data, k, p| Packed::new(&Operand::by_row(Elements::F32(data), m, k), p);
        let (x, z) = (packed(&x, k, Precision::Bf16), packed(&z, 16, Precision::Split));
        let (weight, thin) = (Elements::Bf16(&weight), Elements::F32(&thin));
        let rate = |b: Operand, low: Operand| {
            let (begin, mut best) = (Instant::now(), f64::INFINITY);
            while begin.elapsed().as_secs_f64() < 0.7 {
                let before = processor(begin);
                std::hint::black_box(sum_of_products(&[Segment { a: &x, b }, Segment { a: &z, b: low }]));
                best = best.min(processor(begin) - before);
            }
            2e-9 * (m * n * k) as f64 / best
        };
        println!(
            "{m} {n} {k}: {:.0} {:.0}",
            rate(Operand::by_row(weight, n, k), Operand::by_row(thin, n, 16)),
            rate(Operand::by_column(weight, k, n), Operand::by_column(thin, 16, n)),
        );
    }
}

/// Compares products with bf16 weights, by each instruction set that has its own and in the two-term form, with f32
/// weights on AVX-512 (or the best available). Runs alternate; minimum, median and maximum of the ratios are printed.
fn sets() {
    let plain = Isa::available().filter(|isa| *isa <= Isa::Avx512).last().unwrap_or(Isa::Portable);
    for (m, n, k) in SIZES {
        let x = vec![0.5f32; m * k];
        let w32 = vec![0.25f32; n * k];
        let w16 = vec![bf16::from_f32(0.25); n * k];
        let a = Operand::by_row(Elements::F32(&x), m, k);
        for (way, forward) in [("x·Wᵀ", true), ("dy·W", false)] {
            let operand = |weight| match forward {
                true => Operand::by_row(weight, n, k),
                false => Operand::by_column(weight, k, n),
            };
            let mut text = format!("{m:5} x {n:5} x {k:5} {way:5}");
            for isa in Isa::available().filter(|isa| *isa > Isa::Avx512Vnni) {
                for (precision, weight) in
                    [(Precision::Bf16, Elements::Bf16(&w16)), (Precision::Split, Elements::F32(&w32))]
                {
                    if precision == Precision::Split && isa != Isa::Amx {
                        continue;
                    }
                    let (weight, wide) = (operand(weight), operand(Elements::F32(&w32)));
                    let [seconds, ratios @ ..] = against(
                        || drop(std::hint::black_box(gemm_on(isa, &a, &weight, precision))),
                        || drop(std::hint::black_box(gemm_on(plain, &a, &wide, Precision::F32))),
                    );
                    text += &format!(
                        "   {} {precision:?} {:5.0} GFLOP/s, {:.2} ({:.2} to {:.2}) of f32",
                        isa.name(),
                        2e-9 * (m * n * k) as f64 / seconds,
                        ratios[1],
                        ratios[0],
                        ratios[2]
                    );
                }
            }
            println!("{text}");
        }
    }
}

/// Compares products with quantised weights to those with bf16 weights of the same shape, in alternating runs. Prints
/// the rate, the ratio (minimum, median and maximum), and the relative distance in norm from the product with the
/// dequantised weight in f32; bf16 has such a distance too.
fn quantised() {
    for (m, n, k) in
        [(1600, 4864, 896usize), (1600, 896, 4864), (512, 1024, 1024), (64, 4864, 896), (1, 4864, 1024)]
    {
        for kind in BlockKind::ALL {
            let k = k.next_multiple_of(kind.block().0);
            let bytes = random_blocks(*kind, n * k);
            let weight = Elements::Blocks(Blocks::new(*kind, &bytes));
            let wide = weight.to_f32();
            let narrow: Vec<bf16> = wide.iter().map(|x| bf16::from_f32(*x)).collect();
            let x = gaussian(m * k.max(n));
            let mut text = format!("{m:5} x {n:5} x {k:5} {:5}", kind.name());
            for (way, forward) in [("x·Wᵀ", true), ("dy·W", false)] {
                // In the forward pass lanes are the weight's rows, in the backward pass its columns.
                let product = |weight: Elements, p: Precision| match forward {
                    true => gemm(
                        &Operand::by_row(Elements::F32(&x[..m * k]), m, k),
                        &Operand::by_row(weight, n, k),
                        p,
                    ),
                    false => gemm(
                        &Operand::by_row(Elements::F32(&x[..m * n]), m, n),
                        &Operand::by_column(weight, n, k),
                        p,
                    ),
                };
                let want = product(Elements::F32(&wide), Precision::F32);
                let norm =
                    |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                let off = |got: &[f32]| {
                    norm(&mut got.iter().zip(&want).map(|(g, w)| g - w)) / norm(&mut want.iter().copied())
                };
                let offs = [(weight, Precision::of(&weight)), (Elements::Bf16(&narrow), Precision::Bf16)]
                    .map(|(weight, p)| off(&product(weight, p)));
                let [rate, ratios @ ..] = against(
                    || drop(std::hint::black_box(product(weight, Precision::of(&weight)))),
                    || drop(std::hint::black_box(product(Elements::Bf16(&narrow), Precision::Bf16))),
                );
                text += &format!(
                    "   {way} {:5.0} GFLOP/s, {:.2} ({:.2} to {:.2}) of bf16, off {:.1e} (bf16 {:.1e})",
                    2e-9 * (m * n * k) as f64 / rate,
                    ratios[1],
                    ratios[0],
                    ratios[2],
                    offs[0],
                    offs[1],
                );
            }
            println!("{text}");
        }
    }
}

/// One row and a few times quantised weights, as in generation: the GB/s at which the weights are read. The first weight of a
/// type fits a cache of 1 MB, the second has 100 million numbers.
fn few() {
    let asked = Isa::asked().unwrap();
    for isa in Isa::available().filter(|isa| asked.is_none_or(|asked| asked == *isa)) {
        for kind in BlockKind::ALL {
            let mut text = format!("{:12} {:5}", isa.name(), kind.name());
            for (n, k) in [(768, 1024), (98_304, 1024)] {
                let bytes = random_blocks(*kind, n * k);
                let weight = Operand::by_row(Elements::Blocks(Blocks::new(*kind, &bytes)), n, k);
                let precision = if isa.has_fixed() { Precision::Fixed } else { Precision::F32 };
                for m in [1, 4, 16] {
                    let x = gaussian(m * k);
                    let x = Operand::by_row(Elements::F32(&x), m, k);
                    let seconds = best(|| drop(std::hint::black_box(gemm_on(isa, &x, &weight, precision))));
                    text += &format!("  {n} x {m}: {:5.1} GB/s", 1e-9 * bytes.len() as f64 / seconds);
                }
            }
            println!("{text}");
        }
    }
}

/// Returns the best time of `work` in seconds, and the minimum, median and maximum of its speed relative to `other`.
fn against(mut work: impl FnMut(), mut other: impl FnMut()) -> [f64; 4] {
    let seconds = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    seconds(&mut work);
    seconds(&mut other);
    let (start, mut fastest, mut ratios) = (Instant::now(), f64::INFINITY, Vec::new());
    while ratios.len() < 7 || start.elapsed().as_secs_f64() < 0.5 {
        let (mine, others) = (seconds(&mut work), seconds(&mut other));
        fastest = fastest.min(mine);
        ratios.push(others / mine);
    }
    ratios.sort_by(f64::total_cmp);
    [fastest, ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]]
}

/// Returns random blocks of this kind with that many numbers; the scales are near 2⁻⁸.
fn random_blocks(kind: BlockKind, count: usize) -> Vec<u8> {
    let (numbers, size) = kind.block();
    // The high bytes of the scales.
    let scales: &[usize] = match kind {
        BlockKind::Q6K => &[209],
        BlockKind::Q4_0 | BlockKind::Q5_0 | BlockKind::Q8_0 => &[1],
        _ => &[1, 3],
    };
    (0..count / numbers * size)
        .map(|i| if scales.contains(&(i % size)) { 0x1c } else { ((i * 131 + i / 251) % 256) as u8 })
        .collect()
}

/// Returns nearly Gaussian numbers: sums of twelve uniform ones.
fn gaussian(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        // xorshift32 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn tensor(rows: usize, columns: usize) -> Tensor {
    let data = (0..rows * columns).map(|i| ((i * 31) % 97) as f32 / 97.0 - 0.5).collect();
    Tensor::new(data, (rows, columns)).unwrap()
}

/// Four trees, each with a prompt and two completions.
fn attention(peaks: [f64; 2]) {
    for (prompt, completion, n_head, n_kv_head, head_dim) in
        [(64, 64, 9, 3, 64), (384, 48, 9, 3, 64), (384, 48, 4, 1, 256), (384, 48, 14, 2, 64)]
    {
        let heads = Heads { n_head, n_kv_head, head_dim, scale: 0.125, softcap: None, window: None };
        let size = prompt + 2 * completion;
        let trees: Vec<TreeSpans> = (0..4).map(|t| tree(t * size, prompt, completion)).collect();
        let (q, kv) = (tensor(4 * size, n_head * head_dim), tensor(4 * size, n_kv_head * head_dim));
        let gflop = 1e-9 * heads.flop(&trees) as f64;
        let mut text = String::new();
        for (p, peak) in [Precision::F32, Precision::Bf16].into_iter().zip(peaks) {
            let attended = Attended { q: &q, k: &kv, v: &kv, heads: &heads, precision: p, trees: &trees };
            let saved = tree_attention::forward(&attended).unwrap();
            let forward = 2.0 * gflop / best(|| drop(tree_attention::forward(&attended).unwrap()));
            let backward = 5.0 * gflop
                / best(|| {
                    let dy = &saved.output;
                    drop(tree_attention::backward(dy, &attended, &saved).unwrap());
                });
            let share = |rate: f64| format!("{rate:6.1} {:3.0}%", 100.0 * rate / peak);
            text.push_str(&format!("  {p:?} forward {}  backward {}", share(forward), share(backward)));
        }
        println!("attention {prompt} + 2 x {completion}, {n_head}/{n_kv_head} heads of {head_dim}:{text}");
    }
}

fn tree(start: usize, prompt: usize, completion: usize) -> TreeSpans {
    let end = start + prompt;
    let mut spans = vec![Span { queries: start..end, prefix: start..start, own: start..end }];
    for at in [end, end + completion] {
        let own = at..at + completion;
        spans.push(Span { queries: own.clone(), prefix: start..end, own });
    }
    TreeSpans { rows: start..end + 2 * completion, spans }
}

/// Each operation is compared with a copy of the same size.
fn elementwise() {
    let (rows, hidden, wide) = (1920, 896, 4864);
    let (x, gate, up) = (tensor(rows, hidden), tensor(rows, wide), tensor(rows, wide));
    let gain = vec![0.5f32; hidden];
    let source = vec![1.0f32; rows * wide];
    let copy = 8e-9 * source.len() as f64 / best(|| drop(std::hint::black_box(source.clone())));
    println!("copy on one thread: {copy:.1} GB/s");
    let line = |name: &str, numbers: usize, seconds: f64| {
        let rate = 4e-9 * numbers as f64 / seconds;
        println!("{name:20} {rate:6.1} GB/s, {:3.0}% of the copy", 100.0 * rate / copy);
    };
    let positions: Vec<u32> = (0..rows as u32).collect();
    let frequencies: Vec<f32> = (0..32).map(|i| 0.7f32.powi(i)).collect();
    let rotation = Rotation::new(&positions, &frequencies, 1.0, Pairing::Halves);
    line("rms_norm forward", 2 * rows * hidden, best(|| drop(rms_norm::forward(&x, &gain, 1e-5).unwrap())));
    let mut dx = Gradient::zeros(rows, hidden);
    let backward = best(|| rms_norm::backward(&mut dx, &x, &x, &gain, 1e-5).unwrap());
    line("rms_norm backward", 4 * rows * hidden, backward);
    line("rope", 2 * rows * hidden, best(|| drop(rope::forward(&x, &rotation, 64).unwrap())));
    let silu = Activation::Silu;
    let forward = best(|| drop(gated_act::forward(&gate, Some(&up), silu).unwrap()));
    line("gated_act forward", 3 * rows * wide, forward);
    let backward = best(|| drop(gated_act::backward(&gate, &gate, &up, silu).unwrap()));
    line("gated_act backward", 5 * rows * wide, backward);
}
