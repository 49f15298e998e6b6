//! The instruction sets with kernels, and the selection of the one this process uses.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::amx;
use crate::error::{Error, Result};

/// The instruction sets with kernels, from the narrowest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, vectorised by the compiler for the target's baseline.
    Portable,
    /// 128-bit fused multiply-add of Arm, by lanes.
    Neon,
    /// Adds products of small matrices of 8-bit integers.
    NeonI8mm,
    /// Adds products of small matrices of bf16 (Armv8.6 brought both).
    NeonBf16,
    /// 256-bit fused multiply-add.
    Avx2,
    /// 512-bit fused multiply-add.
    Avx512,
    /// Adds dot products of pairs of 16-bit integers.
    Avx512Vnni,
    /// Adds dot products of pairs of bf16 (no processor has them without those of integers).
    Avx512Bf16,
    /// Adds products of bf16 tiles (Sapphire Rapids and later).
    Amx,
}

/// The environment variable that requests a lower set than the best.
pub const VARIABLE: &str = "DPO_LORA_ISA";

impl Isa {
    const ALL: [Self; 9] = [
        Self::Portable,
        Self::Neon,
        Self::NeonI8mm,
        Self::NeonBf16,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    /// Returns the set this process uses: the one `DPO_LORA_ISA` requests, else the processor's fastest. Decided once.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::asked().ok().flatten().unwrap_or_else(|| Self::fastest(Self::Amx)))
    }

    /// Returns the set that `DPO_LORA_ISA` requests, if the variable is set.
    ///
    /// # Errors
    /// Returns an error if its value names no set, or one that this processor lacks.
    pub fn asked() -> Result<Option<Self>> {
        let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let value = value.to_string_lossy();
        Self::named(&value).map(Some).ok_or_else(|| {
            let names: Vec<&str> = Self::available().map(Self::name).collect();
            Error::Config(format!(
                "{VARIABLE} is \"{value}\", which this processor or this program does not have; \
                 set it to one of {}, or leave it unset for the fastest",
                names.join(", ")
            ))
        })
    }

    /// Finds a set of this processor by name; `avx512` selects the fastest set without AMX.
    fn named(name: &str) -> Option<Self> {
        let exact = Self::available().find(|isa| isa.name() == name)?;
        Some(if exact == Self::Avx512 { Self::fastest(Self::Avx512Bf16) } else { exact })
    }

    /// Returns the fastest set of this processor up to `most`. Intel's AVX-512 multiplies bf16 pairs slower than f32
    /// (by a tenth to a half, Sapphire Rapids), AMD's nearly twice as fast, so Intel's bf16 pairs are skipped. The
    /// choice is a table, not a measurement, because the bits of a product depend on it.
    fn fastest(most: Self) -> Self {
        let worth = |isa: &Self| *isa <= most && (*isa != Self::Avx512Bf16 || !intel());
        Self::available().filter(worth).last().unwrap_or(Self::Portable)
    }

    /// Returns all sets that this processor has.
    pub fn available() -> impl Iterator<Item = Self> {
        static AVAILABLE: OnceLock<[bool; 9]> = OnceLock::new();
        let has = AVAILABLE.get_or_init(|| Self::ALL.map(Self::present));
        Self::ALL.into_iter().zip(has).filter(|(_, has)| **has).map(|(isa, _)| isa)
    }

    #[cfg(target_arch = "x86_64")]
    fn present(self) -> bool {
        // Every processor with AVX2 has the others, too.
        let narrow = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let wide = narrow
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        let integers = wide && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vnni");
        let pairs = integers && is_x86_feature_detected!("avx512bf16");
        match self {
            Self::Portable => true,
            Self::Neon | Self::NeonI8mm | Self::NeonBf16 => false,
            Self::Avx2 => narrow,
            Self::Avx512 => wide,
            Self::Avx512Vnni => integers,
            Self::Avx512Bf16 => pairs,
            Self::Amx => pairs && amx::permitted(),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn present(self) -> bool {
        use std::arch::is_aarch64_feature_detected;
        let integers = is_aarch64_feature_detected!("i8mm");
        match self {
            Self::Portable => true,
            Self::Neon => is_aarch64_feature_detected!("neon"),
            Self::NeonI8mm => integers,
            Self::NeonBf16 => integers && is_aarch64_feature_detected!("bf16"),
            Self::Avx2 | Self::Avx512 | Self::Avx512Vnni | Self::Avx512Bf16 | Self::Amx => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn present(self) -> bool {
        self == Self::Portable
    }

    /// Whether bf16 weights are multiplied as bf16, by inputs that are rounded to bf16.
    pub fn has_bf16(self) -> bool {
        matches!(self, Self::NeonBf16 | Self::Avx512Bf16 | Self::Amx)
    }

    /// Whether bf16 weights are multiplied as integers of 16 bits, which is faster than f32 and rounds less than bf16. On
    /// AVX-512 without VNNI, f32 is faster.
    pub fn fixes_bf16(self) -> bool {
        matches!(self, Self::Avx2 | Self::Avx512Vnni)
    }

    /// Whether [`Precision::Fixed`](super::Precision::Fixed) is multiplied as integers.
    pub fn has_fixed(self) -> bool {
        matches!(self, Self::NeonI8mm | Self::NeonBf16) || self >= Self::Avx2
    }

    /// Describes the set to the user: its name, and how bf16 is multiplied.
    pub fn description(self) -> String {
        let way = match self {
            Self::Amx => "bf16 multiplied in tiles",
            Self::Avx512Bf16 => "bf16 multiplied in pairs",
            Self::NeonBf16 => "bf16 multiplied in blocks of four",
            Self::Avx2 | Self::Avx512Vnni => "bf16 multiplied as 16-bit integers",
            _ => "bf16 widened and multiplied as f32",
        };
        format!("{}, {way}", self.name())
    }

    /// Returns the name for cache keys. It changes where the kernels of a set begin to round differently.
    pub fn arithmetic(self) -> &'static str {
        match self {
            // Attention in tiles, and the stored integers of quantised weights.
            Self::Amx => "amx 3",
            // The stored integers of quantised weights.
            Self::Avx512Vnni => "avx512-vnni 3",
            Self::Avx512Bf16 => "avx512-bf16 2",
            Self::Avx512 => "avx512 2",
            Self::Avx2 => "avx2 3",
            _ => self.name(),
        }
    }

    /// Returns the name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::NeonI8mm => "neon-i8mm",
            Self::NeonBf16 => "neon-bf16",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }
}

/// Whether Intel made this processor.
fn intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::cpuid(0, 0).is_some_and(|leaf| (leaf.ebx, leaf.edx, leaf.ecx) == INTEL);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// "GenuineIntel" as three registers.
#[cfg(target_arch = "x86_64")]
const INTEL: (u32, u32, u32) =
    (u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"ineI"), u32::from_le_bytes(*b"ntel"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_is_available_and_within_what_was_asked() {
        for most in Isa::ALL {
            let isa = Isa::fastest(most);
            assert!(isa <= most && Isa::available().any(|other| other == isa), "{most:?} {isa:?}");
        }
    }

    #[test]
    fn the_tests_run_with_the_set_that_was_asked_for() {
        if let Some(asked) = Isa::asked().unwrap() {
            assert_eq!(Isa::detected(), asked);
        }
    }

    #[test]
    fn every_set_of_the_processor_has_a_name_that_asks_for_it() {
        for isa in Isa::available() {
            let named = Isa::named(isa.name()).unwrap();
            assert!(
                named == isa || isa == Isa::Avx512 && named > isa && named < Isa::Amx,
                "{isa:?} {named:?}"
            );
        }
        assert_eq!(Isa::named("AMX "), None);
        assert_eq!(Isa::named(""), None);
    }
}
