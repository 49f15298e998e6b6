//! AMX micro-kernels: products of bf16 tiles. One instruction multiplies 16 rows by 16 columns over 32 elements of `k`.
//!
//! A tile of `C` consists of up to 2×2 tile registers of 16×16 f32. Of the other four registers, two hold 16 rows of
//! `A` each, with 32 elements of `k` in a row of 64 bytes (`amx_pack`). The other two hold 16 columns of `B` each, with
//! 16 pairs of `k` below each other. That is the same panel as for `vdpbf16ps`, read in place.
//!
//! An instruction sums the even and the odd products of its 32 elements in two chains, adds the two, and adds the
//! result to the accumulator. It does so for each element independently, so the number of rows or columns of a tile
//! does not affect the bits of any element. Denormals count as zero.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv, CpuidResult};

use super::tile::{Part, Tile, Work};

/// Returns a CPUID leaf, or `None` if the processor lacks it.
pub(super) fn cpuid(leaf: u32, part: u32) -> Option<CpuidResult> {
    if cfg!(miri) {
        return None;
    }
    // SAFETY: every x86-64 processor has the instruction, and the leaf is one it knows.
    #[allow(unused_unsafe, reason = "safe functions since Rust 1.94")]
    unsafe {
        (leaf <= __get_cpuid_max(0).0).then(|| __cpuid_count(leaf, part))
    }
}

/// Whether the processor multiplies bf16 tiles and the system lets this process do so. The permission must be
/// requested, because the tiles make a thread's saved state 8 kB larger.
pub(super) fn permitted() -> bool {
    const TILE_AND_BF16: u32 = 1 << 24 | 1 << 22;
    const XSAVE_IN_USE: u32 = 1 << 27;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    let has = |leaf, bits: u32, of: fn(&CpuidResult) -> u32| {
        cpuid(leaf, 0).is_some_and(|found| of(&found) & bits == bits)
    };
    if !has(1, XSAVE_IN_USE, |leaf| leaf.ecx) || !has(7, TILE_AND_BF16, |leaf| leaf.edx) {
        #[cfg(all(test, target_os = "linux", not(miri)))]
        return super::amx_emulated::installed();
        #[cfg(not(all(test, target_os = "linux", not(miri))))]
        return false;
    }
    // SAFETY: the system has enabled XSAVE, which is what the instruction needs.
    let saved = unsafe { saved_states() };
    saved & TILE_STATE == TILE_STATE && ask()
}

/// Returns the register states that the system saves (XCR0).
///
/// # Safety
/// The system must use XSAVE.
#[target_feature(enable = "xsave")]
unsafe fn saved_states() -> u64 {
    // SAFETY: the caller guarantees this.
    unsafe { _xgetbv(0) }
}

/// Calls `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, for all threads of the process.
#[cfg(all(target_os = "linux", not(miri)))]
fn ask() -> bool {
    const ARCH_PRCTL: i64 = 158;
    let answer: i64;
    // SAFETY: the call reads two numbers and no memory; the kernel overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") 0x1023_i64, in("rsi") 18_i64,
            lateout("rcx") _, lateout("r11") _, options(nostack)
        );
    }
    answer == 0
}

/// Other systems have other mechanisms, which are untested.
#[cfg(not(all(target_os = "linux", not(miri))))]
fn ask() -> bool {
    false
}

/// The operand of `ldtilecfg`: palette 1, eight registers of 16 rows.
#[repr(C, align(64))]
pub(super) struct Shapes([u8; 64]);

impl Shapes {
    /// Creates the shapes from the bytes per row of each register, at most 64.
    pub(super) const fn new(row_bytes: [u8; 8]) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut register = 0;
        while register < 8 {
            bytes[16 + 2 * register] = row_bytes[register];
            bytes[48 + register] = 16;
            register += 1;
        }
        Self(bytes)
    }
}

static SHAPES: Shapes = Shapes::new([64; 8]);

/// Keeps this thread's tile registers configured while it lives; afterwards the thread has no tile state to save.
pub(super) struct Tiles(());

impl Tiles {
    /// # Safety
    /// `permitted` must have returned true.
    pub(super) unsafe fn ready() -> Self {
        // SAFETY: the caller guarantees this.
        unsafe { Self::shaped(&SHAPES) }
    }

    /// Like [`Tiles::ready`], with other shapes.
    ///
    /// # Safety
    /// Same as [`Tiles::ready`].
    pub(super) unsafe fn shaped(shapes: &'static Shapes) -> Self {
        // SAFETY: the operand is 64 bytes that describe shapes of palette 1; the registers become zero.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const *shapes, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as in `ready`, without which there is no value to drop.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Returns the kernel of a tile of `mr` (16 or 32) rows and `nr` (16 or 32) columns.
pub(super) fn tile(mr: usize, nr: usize) -> Tile {
    match (mr, nr) {
        (16, 16) => body::<1, 1>,
        (16, _) => body::<1, 2>,
        (_, 16) => body::<2, 1>,
        _ => body::<2, 2>,
    }
}

/// Buffer of a whole tile, through which a partial tile is computed.
#[repr(C, align(64))]
struct Whole([f32; 32 * 32]);

/// # Safety
/// Same as `Kernel::run`; in addition, a [`Tiles`] of this thread must be alive, there must be a part, and the steps of
/// each must be a multiple of 16.
unsafe fn body<const MT: usize, const NT: usize>(work: Work) {
    let Work { parts, c, stride, rows, columns, accumulate, .. } = work;
    if (rows, columns) == (16 * MT, 16 * NT) {
        // SAFETY: the caller guarantees this.
        return unsafe { whole::<MT, NT>(parts, c, stride, accumulate) };
    }
    let mut sums = Whole([0.0; 32 * 32]);
    let sums = sums.0.as_mut_ptr();
    // SAFETY: the corner is readable when accumulating, and writable; `sums` has room for the whole tile.
    unsafe {
        if accumulate {
            for row in 0..rows {
                sums.add(row * 32).copy_from_nonoverlapping(c.add(row * stride), columns);
            }
        }
        whole::<MT, NT>(parts, sums, 32, accumulate);
        for row in 0..rows {
            c.add(row * stride).copy_from_nonoverlapping(sums.add(row * 32), columns);
        }
    }
}

/// The instructions of one whole tile: `$load` loads the sums, `$step` multiplies, `$store` stores the sums. The sums
/// stay in registers over all parts.
macro_rules! multiply {
    ($parts:ident, $c:ident, $stride:ident, $accumulate:ident, $mt:literal, $nt:literal,
     [$($load:literal),*], [$($step:literal),*], [$($store:literal),*]) => {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {add:e}, {add:e}",
            "jz 2f",
            $($load,)*
            "2:",
            "mov {chunks}, [{part}]",
            "mov {a}, [{part} + 8]",
            "mov {b}, [{part} + 16]",
            "shr {chunks}, 4",
            "jz 4f",
            "3:",
            $($step,)*
            "add {a}, {a_step}",
            "add {b}, {b_step}",
            "dec {chunks}",
            "jnz 3b",
            "4:",
            "add {part}, 24",
            "dec {left}",
            "jnz 2b",
            $($store,)*
            add = in(reg) u32::from($accumulate),
            part = inout(reg) $parts.as_ptr() => _,
            left = inout(reg) $parts.len() => _,
            chunks = out(reg) _,
            a = out(reg) _,
            b = out(reg) _,
            a_step = const 1024 * $mt,
            b_step = const 1024 * $nt,
            row = in(reg) 64_usize,
            pair = in(reg) 64_usize * $nt,
            c = in(reg) $c,
            below = in(reg) $c.wrapping_add(16 * $stride * ($mt - 1)),
            line = in(reg) 4 * $stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

/// # Safety
/// Same as [`body`], for a whole tile.
unsafe fn whole<const MT: usize, const NT: usize>(
    parts: &[Part],
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    const { assert!(size_of::<Part>() == 24) };
    // SAFETY: the panels of each part hold `steps / 16` chunks of `MT` and `NT` tiles of 1 kB, `c` the 16·MT rows of 16·NT numbers.
    unsafe {
        match (MT, NT) {
            (1, 1) => multiply! {
                parts, c, stride, accumulate, 1, 1,
                ["tileloadd tmm0, [{c} + {line}*1]"],
                [
                    "tileloadd tmm4, [{a} + {row}*1]",
                    "tileloadd tmm6, [{b} + {pair}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6"
                ],
                ["tilestored [{c} + {line}*1], tmm0", "/* {below} */"]
            },
            (1, _) => multiply! {
                parts, c, stride, accumulate, 1, 2,
                ["tileloadd tmm0, [{c} + {line}*1]", "tileloadd tmm1, [{c} + {line}*1 + 64]"],
                [
                    "tileloadd tmm4, [{a} + {row}*1]",
                    "tileloadd tmm6, [{b} + {pair}*1]",
                    "tileloadd tmm7, [{b} + {pair}*1 + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7"
                ],
                [
                    "tilestored [{c} + {line}*1], tmm0",
                    "tilestored [{c} + {line}*1 + 64], tmm1",
                    "/* {below} */"
                ]
            },
            (_, 1) => multiply! {
                parts, c, stride, accumulate, 2, 1,
                ["tileloadd tmm0, [{c} + {line}*1]", "tileloadd tmm2, [{below} + {line}*1]"],
                [
                    "tileloadd tmm4, [{a} + {row}*1]",
                    "tileloadd tmm6, [{b} + {pair}*1]",
                    "tileloadd tmm5, [{a} + {row}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm2, tmm5, tmm6"
                ],
                ["tilestored [{c} + {line}*1], tmm0", "tilestored [{below} + {line}*1], tmm2"]
            },
            _ => multiply! {
                parts, c, stride, accumulate, 2, 2,
                [
                    "tileloadd tmm0, [{c} + {line}*1]",
                    "tileloadd tmm1, [{c} + {line}*1 + 64]",
                    "tileloadd tmm2, [{below} + {line}*1]",
                    "tileloadd tmm3, [{below} + {line}*1 + 64]"
                ],
                [
                    "tileloadd tmm4, [{a} + {row}*1]",
                    "tileloadd tmm6, [{b} + {pair}*1]",
                    "tileloadd tmm7, [{b} + {pair}*1 + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a} + {row}*1 + 1024]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7"
                ],
                [
                    "tilestored [{c} + {line}*1], tmm0",
                    "tilestored [{c} + {line}*1 + 64], tmm1",
                    "tilestored [{below} + {line}*1], tmm2",
                    "tilestored [{below} + {line}*1 + 64], tmm3"
                ]
            },
        }
    }
}
