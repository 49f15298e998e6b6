//! Matrix products by cuBLASLt, with an algorithm chosen once for each shape and bucket of rows.
//!
//! Unless a product may be split, algorithms that cut its sums are not used: so a row's bits do not depend on the number of
//! rows.

mod offers;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr;

use super::ffi::{Algorithm, BlasLt, Found, Handle};
use super::{Address, Form, Kind, Matrix, Product};
use crate::error::{Error, Result};

/// `CUBLASLT_MATMUL_DESC_TRANSA`, `..._TRANSB`, `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, `..._REDUCTION_SCHEME_MASK`.
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE_B: c_int = 4;
const MOST_WORKSPACE: c_int = 1;
const REDUCTIONS: c_int = 3;
/// Alignments of A, B, C and D.
const ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];
/// `CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT` and `..._STRIDED_BATCH_OFFSET`.
const BATCH: c_int = 5;
const BATCH_OFFSET: c_int = 6;
/// `CUBLAS_COMPUTE_32F` and `CUDA_R_32F`.
const COMPUTE_F32: c_int = 68;
const F32: c_int = 0;
/// `CUBLAS_STATUS_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 15;

/// Number of rows for which algorithms of f32 products are chosen, whatever their number: different buckets differ in bits.
const PINNED: usize = 1024;

/// Bytes of scratch memory that an algorithm may use.
pub(super) const WORKSPACE: usize = 64 << 20;

/// Products, with the algorithms found so far.
pub(super) struct Products {
    library: BlasLt,
    handle: Handle,
    workspace: Address,
    known: HashMap<Key, Plan>,
    ready: HashMap<Key, Ready>,
}

/// The key of an algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    form: Form,
    /// Rows of the result, rounded up to a bucket where that is enough.
    rows: usize,
    sizes: [usize; 2],
    pitches: [usize; 3],
    kinds: [Kind; 3],
    alignments: [u32; 3],
    split: bool,
    parts: usize,
}

/// A product's algorithm, and the layouts of its matrices as cuBLAS sees them, column-major.
#[derive(Clone, Copy)]
struct Ready {
    plan: Plan,
    layouts: [Handle; 3],
}

/// Limit of shapes whose descriptors are kept.
const MOST_READY: usize = 4096;

/// How to compute a product of a bucket.
#[derive(Clone, Copy)]
struct Plan {
    operation: Handle,
    algorithm: Algorithm,
}

fn check(what: &str, status: c_int) -> Result<()> {
    match status {
        0 => Ok(()),
        _ => Err(Error::Model(format!(
            "cuBLASLt failed: {what} gave status {status}; please report it with the model's shape"
        ))),
    }
}

fn data_type(kind: Kind) -> c_int {
    match kind {
        Kind::F32 => F32,
        Kind::Bf16 => 14,
    }
}

/// The alignment of a matrix's beginning and of its rows, in bytes, at most 16.
fn alignment(matrix: &Matrix) -> u32 {
    let bytes = matrix.at.0 | (matrix.pitch * matrix.kind.size()) as u64 | 16;
    1 << bytes.trailing_zeros()
}

/// The smallest bucket that holds these rows.
fn bucket(rows: usize) -> usize {
    const BUCKETS: &[usize] =
        &[16, 32, 64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 6144];
    BUCKETS.iter().copied().find(|bucket| rows <= *bucket).unwrap_or(8192)
}

impl Products {
    /// Products that use `workspace`.
    ///
    /// # Errors
    /// If the library does not initialise.
    pub(super) fn new(library: BlasLt, workspace: Address) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: the context is current; the handle is written.
        check("cublasLtCreate", unsafe { (library.create)(&mut handle) })?;
        Ok(Self { library, handle, workspace, known: HashMap::new(), ready: HashMap::new() })
    }

    /// Computes a product on a stream.
    ///
    /// # Errors
    /// If the library has no algorithm for it.
    pub(super) fn run(&mut self, product: &Product, stream: Handle) -> Result<()> {
        let Product { form, shape: [m, n, k], a, b, c, split, parts, .. } = *product;
        if m == 0 || n == 0 || k == 0 {
            return Ok(());
        }
        let (rows, sizes) = match form {
            // The gradient of a weight sums over the rows of the batch.
            Form::Weight => (bucket(k), [m, n]),
            _ if a.kind == Kind::F32 && !split => (PINNED, [n, k]),
            _ => (bucket(m), [n, k]),
        };
        let key = Key {
            form,
            rows,
            sizes,
            pitches: [a.pitch, b.pitch, c.pitch],
            kinds: [a.kind, b.kind, c.kind],
            alignments: [alignment(&a), alignment(&b), alignment(&c)],
            split,
            parts,
        };
        let exact = Key { rows: if form == Form::Weight { k } else { m }, ..key };
        let ready = match self.ready.get(&exact) {
            Some(ready) => *ready,
            None => self.prepare(product, key, exact)?,
        };
        let mut status = self.multiply(product, ready, stream);
        if status == NOT_SUPPORTED {
            // The algorithm of the bucket does not accept so few rows.
            let plan = self.pick(product, &exact)?;
            self.ready.insert(exact, Ready { plan, ..ready });
            status = self.multiply(product, Ready { plan, ..ready }, stream);
        }
        if status == 0 { Ok(()) } else { check(&format!("cublasLtMatmul of {form:?} {m}x{n}x{k}"), status) }
    }

    /// Descriptors of a product. They are kept, since the blocks of a model need the same ones.
    fn prepare(&mut self, product: &Product, key: Key, exact: Key) -> Result<Ready> {
        let plan = match self.known.get(&key) {
            Some(plan) => *plan,
            None => {
                let plan = self.pick(product, &key)?;
                self.known.insert(key, plan);
                plan
            }
        };
        if self.ready.len() >= MOST_READY {
            for layout in self.ready.drain().flat_map(|(_, ready)| ready.layouts) {
                // SAFETY: made by `layouts`, and used no more: a product has read them when it was asked for.
                unsafe { (self.library.layout_destroy)(layout) };
            }
        }
        let ready = Ready { plan, layouts: layouts(&self.library, product, product.shape)? };
        self.ready.insert(exact, ready);
        Ok(ready)
    }

    /// The library's status.
    fn multiply(&self, product: &Product, ready: Ready, stream: Handle) -> c_int {
        let Product { a, b, c, add, .. } = *product;
        let (plan, [right, left, out]) = (ready.plan, ready.layouts);
        let (alpha, beta) = (1f32, if add { 1f32 } else { 0f32 });
        let pointer = |at: Address| at.0 as *mut c_void;
        // SAFETY: the layouts are those of the matrices, which lie in memory that the caller owns.
        unsafe {
            (self.library.matmul)(
                self.handle,
                plan.operation,
                ptr::from_ref(&alpha).cast(),
                pointer(b.at),
                right,
                pointer(a.at),
                left,
                ptr::from_ref(&beta).cast(),
                pointer(c.at),
                out,
                pointer(c.at),
                out,
                &plan.algorithm,
                pointer(self.workspace),
                WORKSPACE,
                stream,
            )
        }
    }

    /// The algorithm for a bucket of rows.
    fn pick(&self, product: &Product, key: &Key) -> Result<Plan> {
        let [m, n, k] = product.shape;
        let shape = match product.form {
            Form::Weight => [m, n, key.rows],
            _ => [key.rows, n, k],
        };
        let operation = self.operation(product.form)?;
        let mut found = [Found::default()];
        let count = self.heuristic(product, (shape, operation), key, &mut found)?;
        if count == 0 {
            return Err(Error::Model(format!("cuBLASLt has no algorithm for {:?} {shape:?}", product.form)));
        }
        Ok(Plan { operation, algorithm: found[0].algorithm })
    }

    /// The library's best algorithms, the best one first; returns their number.
    fn heuristic(
        &self,
        product: &Product,
        (shape, operation): ([usize; 3], Handle),
        key: &Key,
        found: &mut [Found],
    ) -> Result<usize> {
        let [right, left, out] = layouts(&self.library, product, shape)?;
        let preference = self.preference(key)?;
        let (most, mut count) = (found.len() as c_int, 0);
        // SAFETY: all descriptors are alive; at most as many results as there is room for are written.
        let status = unsafe {
            (self.library.heuristic)(
                self.handle,
                operation,
                right,
                left,
                out,
                out,
                preference,
                most,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        // SAFETY: made by `layouts` and `preference`, and used no more.
        unsafe {
            for layout in [right, left, out] {
                (self.library.layout_destroy)(layout);
            }
            (self.library.preference_destroy)(preference)
        };
        check(&format!("the choice of an algorithm for {:?} {shape:?}", product.form), status)?;
        Ok(count as usize)
    }

    fn operation(&self, form: Form) -> Result<Handle> {
        let mut operation = ptr::null_mut();
        // SAFETY: the descriptor is written.
        check("cublasLtMatmulDescCreate", unsafe {
            (self.library.matmul_create)(&mut operation, COMPUTE_F32, F32)
        })?;
        // Row-major C = A·B is column-major Cᵀ = Bᵀ·Aᵀ: cuBLAS's first operand is ours on the right.
        let (first, second) = match form {
            Form::Forward => (1, 0),
            Form::Backward => (0, 0),
            Form::Weight => (0, 1),
        };
        for (attribute, value) in [(TRANSPOSE_A, first), (TRANSPOSE_B, second)] {
            let value: c_int = value;
            // SAFETY: the attribute is an `int`.
            let status = unsafe {
                (self.library.matmul_set)(
                    operation,
                    attribute,
                    ptr::from_ref(&value).cast(),
                    size_of::<c_int>(),
                )
            };
            check("cublasLtMatmulDescSetAttribute", status)?;
        }
        Ok(operation)
    }

    fn preference(&self, key: &Key) -> Result<Handle> {
        let mut preference = ptr::null_mut();
        // SAFETY: the descriptor is written.
        check("cublasLtMatmulPreferenceCreate", unsafe {
            (self.library.preference_create)(&mut preference)
        })?;
        let set = |attribute: c_int, value: *const c_void, size: usize| {
            // SAFETY: the value is as large as said.
            check("cublasLtMatmulPreferenceSetAttribute", unsafe {
                (self.library.preference_set)(preference, attribute, value, size)
            })
        };
        set(MOST_WORKSPACE, ptr::from_ref(&WORKSPACE).cast(), size_of::<usize>())?;
        if !key.split {
            set(REDUCTIONS, ptr::from_ref(&0u32).cast(), size_of::<u32>())?;
        }
        let [a, b, c] = key.alignments;
        for (attribute, value) in ALIGNMENTS.into_iter().zip([b, a, c, c]) {
            set(attribute, ptr::from_ref(&value).cast(), size_of::<u32>())?;
        }
        Ok(preference)
    }
}

fn layouts(library: &BlasLt, product: &Product, [m, n, k]: [usize; 3]) -> Result<[Handle; 3]> {
    let Product { form, a, b, c, parts, .. } = product;
    let k = k / parts;
    // Column-major: the columns of a row-major matrix are its rows.
    let (right, left) = match form {
        Form::Forward => ((k, n), (k, m)),
        Form::Backward => ((n, k), (k, m)),
        Form::Weight => ((n, k), (m, k)),
    };
    // Numbers from a part to the next.
    let rows = |matrix: &Matrix, rows: usize| rows * matrix.pitch;
    let (next_right, next_left) = match form {
        Form::Forward => (k, k),
        Form::Backward => (rows(b, k), k),
        Form::Weight => (rows(b, k), rows(a, k)),
    };
    let make = |matrix: &Matrix, (rows, columns): (usize, usize), next: usize| {
        let (kind, pitch) = (data_type(matrix.kind), matrix.pitch as i64);
        let mut layout = ptr::null_mut();
        // SAFETY: the layout is written.
        let status =
            unsafe { (library.layout_create)(&mut layout, kind, rows as u64, columns as u64, pitch) };
        check("cublasLtMatrixLayoutCreate", status)?;
        if *parts > 1 {
            let (count, next) = (*parts as i32, next as i64);
            let set = |attribute: c_int, value: *const c_void, size: usize| {
                // SAFETY: the layout is alive, and the value as large as said.
                check("cublasLtMatrixLayoutSetAttribute", unsafe {
                    (library.layout_set)(layout, attribute, value, size)
                })
            };
            set(BATCH, ptr::from_ref(&count).cast(), 4)?;
            set(BATCH_OFFSET, ptr::from_ref(&next).cast(), 8)?;
        }
        Ok::<_, Error>(layout)
    };
    let next_out = product.shape[0] * c.pitch;
    Ok([make(b, right, next_right)?, make(a, left, next_left)?, make(c, (n, m), next_out)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignments_are_those_of_begin_and_pitch() {
        let matrix = |at, pitch, kind| alignment(&Matrix { at: Address(at), pitch, kind });
        assert_eq!(matrix(256, 64, Kind::Bf16), 16);
        assert_eq!(matrix(256, 36, Kind::Bf16), 8);
        assert_eq!(matrix(258, 64, Kind::Bf16), 2);
        assert_eq!(matrix(256, 7, Kind::F32), 4);
    }

    #[test]
    fn buckets_hold_their_rows() {
        for rows in [1, 16, 17, 300, 1025, 8192] {
            assert!(bucket(rows) >= rows, "{rows}");
        }
        assert_eq!(bucket(100_000), 8192);
    }
}
