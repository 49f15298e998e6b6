//! Devices: buffers, copies, kernels and matrix products, in order, behind one trait.
//!
//! Whatever computes on a device writes against [`Backend`]. [`cuda`] drives an NVIDIA card, [`host`] runs the same kernels,
//! compiled for the processor, on tiny models in tests, and [`measure`] runs nothing but counts launches, bytes and
//! arithmetic: it is the plan of a run.
//!
//! Everything is done in the order in which it is asked for, on one stream. Only [`Backend::download`] and
//! [`Backend::synchronise`] wait.

pub mod arena;
pub mod buffer;
pub mod cuda;
mod ffi;
pub mod host;
mod kernels;
mod libraries;
pub mod measure;
mod products;
pub mod profile;

pub use arena::{Arena, Mark};
pub use buffer::Buffer;
pub use kernels::fingerprint as kernels_fingerprint;

use crate::error::{Error, Result};

/// An address in a device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub u64);

impl Address {
    /// No memory: an optional argument that is left out.
    pub const NONE: Self = Self(0);

    /// `bytes` further on.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// How numbers are stored on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl Kind {
    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// As in the names of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A pointer.
    At(Address),
    /// `int`.
    Int(i32),
    /// `long long`, or `unsigned long long`.
    Long(u64),
    /// `float`.
    Float(f32),
}

impl From<Address> for Arg {
    fn from(value: Address) -> Self {
        Self::At(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Long(value)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<usize> for Arg {
    /// Sizes are `int`s in kernels; what they multiply is computed in 64 bits there.
    fn from(value: usize) -> Self {
        Self::Int(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

/// One launch of a kernel.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The source file of the kernel, without its ending.
    pub module: &'static str,
    /// The kernel's name.
    pub name: &'a str,
    /// Blocks.
    pub grid: [usize; 2],
    /// Threads of a block.
    pub block: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// Arguments, in order.
    pub args: &'a [Arg],
    /// Bytes it reads and writes, for the profile.
    pub bytes: usize,
    /// Arithmetic, for the profile.
    pub flop: usize,
}

/// Blocks that a grid may have in its second direction.
pub const MOST_BLOCKS: usize = 65_535;

impl Launch<'_> {
    /// Refuses a grid that no card launches.
    ///
    /// # Errors
    /// If it is too large in its second direction.
    fn check(&self) -> Result<()> {
        match self.grid[1] {
            0..=MOST_BLOCKS => Ok(()),
            rows => Err(Error::Device(format!("{} was asked for {rows} blocks side by side", self.name))),
        }
    }
}

/// Which operands of a product are read transposed. All matrices are row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `C [m, n] = A [m, k]·B [n, k]ᵀ`: a linear map forwards.
    Forward,
    /// `C [m, n] = A [m, k]·B [k, n]`: its input's gradient.
    Backward,
    /// `C [m, n] = A [k, m]ᵀ·B [k, n]`: its weight's gradient.
    Weight,
}

/// A matrix, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Its first number.
    pub at: Address,
    /// Numbers from a row to the next.
    pub pitch: usize,
    /// How its numbers are stored.
    pub kind: Kind,
}

/// A matrix product, accumulated in f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// What is transposed.
    pub form: Form,
    /// Rows and columns of the result, and the length of the sums.
    pub shape: [usize; 3],
    /// Left operand.
    pub a: Matrix,
    /// Right operand.
    pub b: Matrix,
    /// The result.
    pub c: Matrix,
    /// Add to the result instead of overwriting it.
    pub add: bool,
    /// The sums are cut into so many parts of the same length, each with a result of its own: that of part p begins p·m rows
    /// further on. 1: whole sums.
    pub parts: usize,
    /// The library may cut the sums itself: faster where the result is small, but a row's bits then depend on the number of rows.
    pub split: bool,
}

impl Product {
    /// Its arithmetic.
    pub fn flop(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }

    /// Part `p` of its sums as a product of its own.
    pub fn part(&self, p: usize) -> Self {
        let [m, n, k] = self.shape;
        let length = k / self.parts;
        let moved = |matrix: Matrix, numbers: usize| Matrix {
            at: matrix.at.plus(numbers * matrix.kind.size()),
            ..matrix
        };
        let first = p * length;
        let (a, b) = match self.form {
            Form::Forward => (first, first),
            Form::Backward => (first, first * self.b.pitch),
            Form::Weight => (first * self.a.pitch, first * self.b.pitch),
        };
        let (a, b, c) = (moved(self.a, a), moved(self.b, b), moved(self.c, p * m * self.c.pitch));
        Self { shape: [m, n, length], a, b, c, parts: 1, ..*self }
    }

    /// Bytes of its operands and its result.
    pub fn bytes(&self) -> usize {
        let [m, n, k] = self.shape;
        m * k * self.a.kind.size() + k * n * self.b.kind.size() + m * n * self.c.kind.size()
    }
}

/// What a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Of the libraries that its numbers depend on.
    pub versions: String,
    /// Bytes in all, and free.
    pub memory: (usize, usize),
}

/// A device that computes in order.
pub trait Backend: Send + Sync {
    /// What it is.
    fn describe(&self) -> Description;

    /// Whether it computes; if not, results are not to be looked at.
    fn computes(&self) -> bool {
        true
    }

    /// Memory of this many bytes.
    ///
    /// # Errors
    /// If there is not as much.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Gives memory back once all work that was asked for is done.
    fn free(&self, at: Address);

    /// Copies rows of `row` bytes from the host.
    ///
    /// # Errors
    /// If the device fails.
    fn upload(&self, to: Address, pitch: usize, bytes: &[u8], row: usize) -> Result<()>;

    /// Copies to the host, and waits for it.
    ///
    /// # Errors
    /// If the device fails, here or in anything asked for before.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Zeroes `rows` rows of `row` bytes.
    ///
    /// # Errors
    /// If the device fails.
    fn zero(&self, at: Address, pitch: usize, row: usize, rows: usize) -> Result<()>;

    /// Copies rows of `row` bytes within the device; pitches are of target and source.
    ///
    /// # Errors
    /// If the device fails.
    fn copy(&self, to: Address, from: Address, pitches: [usize; 2], row: usize, rows: usize) -> Result<()>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// If it cannot be loaded or launched.
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Computes a matrix product.
    ///
    /// # Errors
    /// If the library cannot.
    fn product(&self, product: &Product) -> Result<()>;

    /// Waits for all that was asked for.
    ///
    /// # Errors
    /// If any of it failed.
    fn synchronise(&self) -> Result<()>;

    /// Begins to take times, forgetting those taken before; or ends it.
    fn profile(&self, on: bool);

    /// Time and work by kernel since [`Backend::profile`].
    ///
    /// # Errors
    /// If the device fails.
    fn times(&self) -> Result<Vec<profile::Entry>>;
}
