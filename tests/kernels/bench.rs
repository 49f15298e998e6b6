//! Helpers of the kernel tests: guarded buffers, launches, random numbers, and comparisons.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use dpo_lora::device::{Address, Arg, Backend, Kind, Launch};
use dpo_lora::random::Stream;
use half::bf16;

use crate::common::device::device;

pub const KINDS: [Kind; 2] = [Kind::F32, Kind::Bf16];
/// Half of a last place of f32 and of bf16, relative.
pub const F32: f64 = 1.0 / (1 << 24) as f64;
pub const BF16: f64 = 1.0 / (1 << 8) as f64;

/// The number of guard bytes before and after a buffer, which must not change.
const GUARD: usize = 64;
const MARK: u8 = 0xa7;

/// Arguments of a kernel.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$(dpo_lora::device::Arg::from($arg)),*] };
}

/// A device, and everything that was read from it.
pub struct Bench {
    device: Arc<dyn Backend>,
    random: Stream,
    drawn: Cell<u64>,
    seen: RefCell<blake3::Hasher>,
}

impl Bench {
    /// Returns `None` without a device or a compiler to build one.
    pub fn new(name: &str) -> Option<Self> {
        let (random, drawn, seen) = (Stream::new(1, name), Cell::default(), RefCell::default());
        device().map(|device| Self { device, random, drawn, seen })
    }

    fn next(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        self.drawn.get()
    }

    /// Returns normal numbers.
    pub fn normal(&self, count: usize, spread: f32) -> Vec<f32> {
        let one = || {
            let (a, b) = (1.0 - self.random.uniform(self.next()), self.random.uniform(self.next()));
            (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
        };
        (0..count).map(|_| spread * one()).collect()
    }

    /// Returns normal numbers of a type.
    pub fn rounded(&self, kind: Kind, count: usize, spread: f32) -> Vec<f32> {
        round(kind, &self.normal(count, spread))
    }

    pub fn below(&self, bound: usize) -> usize {
        self.random.below(self.next(), bound)
    }

    pub fn word(&self) -> u64 {
        self.random.word(self.next())
    }

    fn put(&self, bytes: &[u8], shift: usize, kept: bool) -> Buf<'_> {
        let memory = self.device.allocate(bytes.len() + 2 * GUARD + shift).unwrap();
        let buf = Buf {
            bench: self,
            memory,
            start: GUARD + shift,
            len: bytes.len(),
            kept: kept.then(|| bytes.into()),
        };
        let mut all = vec![MARK; bytes.len() + 2 * GUARD + shift];
        all[buf.start..][..bytes.len()].copy_from_slice(bytes);
        self.device.upload(memory, all.len(), &all, all.len()).unwrap();
        buf
    }

    /// Uploads bytes that a kernel only reads.
    pub fn bytes(&self, bytes: &[u8]) -> Buf<'_> {
        self.put(bytes, 0, true)
    }

    /// Uploads numbers that a kernel only reads, `shift` numbers after a multiple of 16 bytes.
    pub fn input(&self, kind: Kind, values: &[f32], shift: usize) -> Buf<'_> {
        self.put(&encode(kind, values), shift * kind.size(), true)
    }

    /// Uploads numbers that a kernel may change.
    pub fn changing(&self, kind: Kind, values: &[f32], shift: usize) -> Buf<'_> {
        self.put(&encode(kind, values), shift * kind.size(), false)
    }

    /// Returns memory for numbers that a kernel writes; it contains NaN until then.
    pub fn output(&self, kind: Kind, count: usize, shift: usize) -> Buf<'_> {
        self.changing(kind, &vec![f32::NAN; count], shift)
    }

    pub fn integers(&self, values: &[i32]) -> Buf<'_> {
        self.bytes(bytemuck::cast_slice(values))
    }

    /// Runs a kernel.
    pub fn launch(
        &self,
        module: &'static str,
        name: &str,
        (grid, block, shared): ([usize; 2], usize, usize),
        args: &[Arg],
    ) {
        let launch = Launch { module, name, grid, block, shared, args, bytes: 0, flop: 0 };
        self.device.launch(&launch).unwrap();
    }

    /// Runs a kernel of a type.
    pub fn run(
        &self,
        module: &'static str,
        name: &str,
        kind: Kind,
        geometry: ([usize; 2], usize, usize),
        args: &[Arg],
    ) {
        self.launch(module, &format!("{name}_{}", kind.name()), geometry, args);
    }

    /// Returns a hash of everything that was read.
    pub fn seen(&self) -> String {
        self.seen.borrow().finalize().to_hex().to_string()
    }
}

/// Device memory between guards, which are checked at every reading and at the end.
pub struct Buf<'a> {
    bench: &'a Bench,
    memory: Address,
    start: usize,
    len: usize,
    /// The bytes that must not have changed.
    kept: Option<Vec<u8>>,
}

impl Buf<'_> {
    pub fn at(&self) -> Address {
        self.memory.plus(self.start)
    }

    pub fn read(&self) -> Vec<u8> {
        let mut all = vec![0; self.start + self.len + GUARD];
        self.bench.device.download(self.memory, &mut all).unwrap();
        let (before, rest) = all.split_at(self.start);
        let (bytes, behind) = rest.split_at(self.len);
        assert!(
            before.iter().chain(behind).all(|byte| *byte == MARK),
            "a kernel wrote outside of its buffer"
        );
        assert!(self.kept.as_ref().is_none_or(|kept| kept == bytes), "a kernel changed what it is to read");
        if self.kept.is_none() {
            self.bench.seen.borrow_mut().update(bytes);
        }
        bytes.to_vec()
    }

    pub fn numbers(&self, kind: Kind) -> Vec<f32> {
        decode(kind, &self.read())
    }
}

impl Drop for Buf<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.read();
        }
        self.bench.device.free(self.memory);
    }
}

/// An optional argument.
pub fn at(buf: Option<&Buf>) -> Address {
    buf.map_or(Address::NONE, Buf::at)
}

pub fn encode(kind: Kind, values: &[f32]) -> Vec<u8> {
    match kind {
        Kind::F32 => bytemuck::cast_slice(values).to_vec(),
        Kind::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

pub fn decode(kind: Kind, bytes: &[u8]) -> Vec<f32> {
    match kind {
        Kind::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Kind::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

pub fn round(kind: Kind, values: &[f32]) -> Vec<f32> {
    decode(kind, &encode(kind, values))
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// Returns rows of length `width` at a pitch of `pitch`, with NaN in between.
pub fn padded(values: &[f32], width: usize, pitch: usize) -> Vec<f32> {
    let row = |row: &[f32]| [row, &vec![f32::NAN; pitch - width]].concat();
    values.chunks_exact(width).flat_map(row).collect()
}

/// Returns rows without their tails, which must be zeros.
pub fn trimmed(what: &str, values: &[f32], width: usize, pitch: usize) -> Vec<f32> {
    assert!(
        values.chunks_exact(pitch).all(|row| row[width..].iter().all(|x| x.to_bits() == 0)),
        "{what}: its tail"
    );
    values.chunks_exact(pitch).flat_map(|row| row[..width].to_vec()).collect()
}

/// Asserts that rows of `width` numbers are correct up to `places` halves of a last place of f32 of the largest number
/// of the row, and one rounding to `kind`.
pub fn near(what: &str, kind: Kind, found: &[f32], want: &[f64], width: usize, places: f64) {
    near_size(what, kind, found, want, width, places, 0.0);
}

/// Asserts the same with a given size of the summed terms.
pub fn near_size(what: &str, kind: Kind, found: &[f32], want: &[f64], width: usize, places: f64, size: f64) {
    assert_eq!(found.len(), want.len(), "{what}");
    let rounding = if kind == Kind::Bf16 { BF16 } else { 0.0 };
    for (i, (found, want)) in found.chunks(width).zip(want.chunks(width)).enumerate() {
        let most = want.iter().fold(size.max(1e-30), |most, x| most.max(x.abs()));
        for (j, (f, w)) in found.iter().zip(want).enumerate() {
            let off = (f64::from(*f) - w).abs();
            // The rounded number was computed, and is itself slightly off.
            let bound = places * F32 * most * (1.0 + rounding) + rounding * w.abs();
            assert!(
                off <= bound,
                "{what}: row {i} column {j} is {f}, not {w}: off by {off:e}, more than {bound:e}"
            );
        }
    }
}

/// Asserts that bits are equal.
pub fn same(what: &str, found: &[u8], want: &[u8]) {
    assert_eq!(found.len(), want.len(), "{what}");
    if let Some(i) = found.iter().zip(want).position(|(f, w)| f != w) {
        panic!("{what}: byte {i} of {} is {}, not {}", found.len(), found[i], want[i]);
    }
}

/// Asserts that row `row` has the same bits as the only row of `alone`.
pub fn same_row(what: &str, all: &[u8], alone: &[u8], row: usize) {
    same(&format!("{what}: row {row} alone"), &all[row * alone.len()..][..alone.len()], alone);
}

/// Returns the selected rows.
pub fn picked<T: Copy>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    rows.iter().flat_map(|row| values[row * width..][..width].to_vec()).collect()
}
