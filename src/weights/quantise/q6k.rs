//! Q6_K: super-blocks of 16 groups of 16 numbers, with one scale each (`quantize_row_q6_K_impl` of `ggml-quants.c`).
//!
//! A block has 210 bytes: 128 of low nibbles, 64 of upper pairs of bits, 16 scales (i8), and the half d. A number is
//! d·scale·(q − 32). Nibbles and upper bits are stored for each 128 numbers: byte i of 64 has the nibbles of numbers i
//! and i + 64; byte i of 32 has the upper bits of numbers i, i + 32, i + 64 and i + 96.

use std::array::from_fn;

use super::packing::{put_half, put_nibbles};
use super::rounding::{extreme, nearest};

const GROUP: usize = 16;
const GROUPS: usize = 16;
const BLOCK: usize = GROUP * GROUPS;

/// The stored code of 0. Codes are `-ZERO..ZERO` before `ZERO` is added.
const ZERO: i32 = 32;

type Group = [f32; GROUP];

/// Encodes a super-block with 6 bits.
pub fn q6_k(x: &[f32; BLOCK], block: &mut [u8; 210]) {
    let groups: &[Group] = x.as_chunks().0;
    let found: [Fit; GROUPS] = from_fn(|g| Fit::search(&groups[g]));
    let exact = found.each_ref().map(Fit::scale);
    let inverse = -128.0 / extreme(&exact);
    let d = put_half(1.0 / inverse, &mut block[208..]);
    let mut codes = [0; BLOCK];
    for (g, codes) in codes.chunks_exact_mut(GROUP).enumerate() {
        // As in ggml, an integer below -128 keeps its lower eight bits.
        let scale = nearest(inverse * exact[g]).min(127) as i8;
        block[192 + g] = scale.cast_unsigned();
        let scale = d * f32::from(scale);
        // If the scale is rounded to 0, the codes remain those of the search.
        let rounded = if scale == 0.0 { found[g].codes } else { code(&groups[g], |x| x / scale) };
        for (code, rounded) in codes.iter_mut().zip(rounded) {
            *code = (rounded + ZERO) as u8;
        }
    }
    let (low, high) = block[..192].split_at_mut(128);
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        put_nibbles(codes, &mut low[half * 64..][..64]);
        for (i, byte) in high[half * 32..][..32].iter_mut().enumerate() {
            *byte = (0..4).fold(0, |bits, quarter| bits | codes[quarter * 32 + i] >> 4 << (2 * quarter));
        }
    }
}

/// Returns the nearest codes of numbers that `divided` divides by their scale.
#[inline(always)]
fn code(x: &Group, divided: impl Fn(f32) -> f32) -> [i32; GROUP] {
    x.map(|x| nearest(divided(x)).clamp(-ZERO, ZERO - 1))
}

/// The codes l of a group's numbers x, with the sums Σlx and Σl². The least-squares scale is Σlx / Σl²; with it, the
/// squared error is Σx² − (Σlx)² / Σl².
#[derive(Clone, Copy)]
struct Fit {
    codes: [i32; GROUP],
    lx: f32,
    ll: f32,
}

impl Fit {
    fn new(x: &Group, codes: [i32; GROUP]) -> Self {
        let (mut lx, mut ll) = (0.0, 0.0);
        for (x, code) in x.iter().zip(codes) {
            lx += x * code as f32;
            ll += (code * code) as f32;
        }
        Self { codes, lx, ll }
    }

    /// Returns the scale; 0 for numbers that are all 0.
    fn scale(&self) -> f32 {
        if self.ll == 0.0 { 0.0 } else { self.lx / self.ll }
    }

    /// Finds codes with a small error (`make_qx_quants` with equal weights). At first the number of largest magnitude
    /// has the code -32. Then all codes are computed again with the least-squares scale, up to three times; and single
    /// codes are moved, up to five times.
    fn search(x: &Group) -> Self {
        let farthest = extreme(x);
        if farthest == 0.0 {
            return Self { codes: [-ZERO; GROUP], lx: 0.0, ll: 0.0 };
        }
        let inverse = -(ZERO as f32) / farthest;
        let mut best = Self::new(x, code(x, |x| inverse * x));
        for _ in 0..3 {
            let inverse = 1.0 / (best.lx / best.ll);
            let next = Self::new(x, code(x, |x| inverse * x));
            let least = best.lx / best.ll * best.lx;
            if next.codes == best.codes || next.ll == 0.0 || next.lx * next.lx <= least * next.ll {
                break;
            }
            best = next;
        }
        for _ in 0..5 {
            if !best.refine(x) {
                break;
            }
        }
        best
    }

    /// Moves each code to the optimum given the others, if the error becomes smaller. Returns whether any code moved.
    fn refine(&mut self, x: &Group) -> bool {
        let mut changed = false;
        for (x, code) in x.iter().zip(&mut self.codes) {
            let old = *code as f32;
            let (lx, ll) = (self.lx - x * old, self.ll - old * old);
            if lx > 0.0 {
                let new = nearest(x * ll / lx).clamp(-ZERO, ZERO - 1);
                let (lx, ll) = (lx + x * new as f32, ll + (new * new) as f32);
                if new != *code && ll > 0.0 && lx * lx * self.ll > self.lx * self.lx * ll {
                    (*code, self.lx, self.ll, changed) = (new, lx, ll, true);
                }
            }
        }
        changed
    }
}
