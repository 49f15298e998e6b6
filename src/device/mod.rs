//! Devices: buffers, copies, kernels and matrix products, in order, behind one trait.
//!
//! All code for devices is written against [`Backend`]. [`cuda`] drives an NVIDIA GPU; [`host`] runs the same kernels,
//! compiled for the CPU, on tiny models in tests; and [`measure`] runs nothing but counts launches, bytes and arithmetic,
//! which gives the plan of a run.
//!
//! All operations run in the order in which they are called, on one stream. Only [`Backend::download`] and
//! [`Backend::synchronise`] wait.

pub mod arena;
pub mod buffer;
pub mod cuda;
mod ffi;
pub mod host;
mod kernels;
mod libraries;
pub mod linked;
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
    /// A null pointer, for an optional argument that is left out.
    pub const NONE: Self = Self(0);

    /// The address `bytes` further on.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Storage types of numbers on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl Kind {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Its name in the names of kernels.
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
    /// Sizes are `int`s in kernels; products of sizes are computed there in 64 bits.
    fn from(value: usize) -> Self {
        Self::Int(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

/// One launch of a kernel.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The source file of the kernel, without its extension.
    pub module: &'static str,
    /// The kernel's name.
    pub name: &'a str,
    /// Blocks.
    pub grid: [usize; 2],
    /// Threads per block.
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

/// Limit of blocks in the second dimension of a grid.
pub const MOST_BLOCKS: usize = 65_535;

impl Launch<'_> {
    /// Refuses a grid that no GPU can launch.
    ///
    /// # Errors
    /// If it is too large in its second dimension.
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
    /// `C [m, n] = A [m, k]·B [n, k]ᵀ`: the forward pass of a linear map.
    Forward,
    /// `C [m, n] = A [m, k]·B [k, n]`: the gradient of its input.
    Backward,
    /// `C [m, n] = A [k, m]ᵀ·B [k, n]`: the gradient of its weight.
    Weight,
}

/// A matrix, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Its first element.
    pub at: Address,
    /// Elements from one row to the next.
    pub pitch: usize,
    /// Storage type of its elements.
    pub kind: Kind,
}

/// A matrix product, accumulated in f32.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Which operands are transposed.
    pub form: Form,
    /// Rows and columns of the result, and the length of the sums.
    pub shape: [usize; 3],
    /// Left operand.
    pub a: Matrix,
    /// Right operand.
    pub b: Matrix,
    /// The result.
    pub c: Matrix,
    /// Whether to add to the result instead of overwriting it.
    pub add: bool,
    /// The sums are cut into this many parts of equal length, each with its own result: that of part p starts p·m rows
    /// later. 1 computes whole sums.
    pub parts: usize,
    /// Whether the library may cut the sums itself: faster for small results, but a row's bits then depend on the number of rows.
    pub split: bool,
}

impl Product {
    /// Its number of operations.
    pub fn flop(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }

    /// Part `p` of its sums as a separate product.
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

/// Description of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Versions of the libraries that its results depend on.
    pub versions: String,
    /// Bytes of memory: total and free.
    pub memory: (usize, usize),
}

/// A device's stream, as its libraries take it; null on the processor.
#[derive(Clone, Copy, Debug)]
pub struct Stream(pub *mut std::ffi::c_void);

/// A device that runs its operations in order.
pub trait Backend: Send + Sync {
    /// Its description.
    fn describe(&self) -> Description;

    /// Whether it computes; if not, results must not be read.
    fn computes(&self) -> bool {
        true
    }

    /// Memory of this many bytes.
    ///
    /// # Errors
    /// If the device is out of memory.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Releases memory once all operations called so far are done.
    fn free(&self, at: Address);

    /// Copies rows of `row` bytes from the host.
    ///
    /// # Errors
    /// If the device fails.
    fn upload(&self, to: Address, pitch: usize, bytes: &[u8], row: usize) -> Result<()>;

    /// Copies to the host, and waits for the copy.
    ///
    /// # Errors
    /// If the device fails, now or in an earlier operation.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Zeroes `rows` rows of `row` bytes.
    ///
    /// # Errors
    /// If the device fails.
    fn zero(&self, at: Address, pitch: usize, row: usize, rows: usize) -> Result<()>;

    /// Copies rows of `row` bytes within the device; the pitches are those of target and source.
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
    /// If the library cannot compute it.
    fn product(&self, product: &Product) -> Result<()>;

    /// Lets a library queue work behind all operations called so far. The device is current on this thread meanwhile.
    ///
    /// # Errors
    /// Those of `work`.
    fn on_stream(&self, work: &mut dyn FnMut(Stream) -> Result<()>) -> Result<()> {
        work(Stream(std::ptr::null_mut()))
    }

    /// Waits for all operations called so far.
    ///
    /// # Errors
    /// If any of it failed.
    fn synchronise(&self) -> Result<()>;

    /// Starts measuring times, discarding earlier ones; or stops.
    fn profile(&self, on: bool);

    /// Time and work by kernel since [`Backend::profile`].
    ///
    /// # Errors
    /// If the device fails.
    fn times(&self) -> Result<Vec<profile::Entry>>;
}
