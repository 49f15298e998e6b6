//! The algorithms of cuBLASLt for a product.

use std::ffi::c_int;
use std::ptr;

use super::super::Product;
use super::super::ffi::{Algorithm, Found, Handle};
use super::{Key, Plan, Products, Ready, alignment, check, layouts};
use crate::error::Result;

impl Products {
    /// The algorithms that the library has for a product, its first choice first, each timed by `time`; printed by
    /// `tests/benches/products.rs`.
    ///
    /// # Errors
    /// If the library fails.
    pub(in crate::device) fn candidates(
        &self,
        product: &Product,
        stream: Handle,
        mut time: impl FnMut(&mut dyn FnMut() -> Result<()>) -> Result<f64>,
    ) -> Result<Vec<(String, f64)>> {
        let operation = self.operation(product.form)?;
        let Product { shape, a, b, c, split, parts, .. } = *product;
        let key = Key {
            form: product.form,
            rows: shape[0],
            sizes: [shape[1], shape[2]],
            pitches: [a.pitch, b.pitch, c.pitch],
            kinds: [a.kind, b.kind, c.kind],
            alignments: [alignment(&a), alignment(&b), alignment(&c)],
            split,
            parts,
        };
        let mut found = [Found::default(); 8];
        let count = self.heuristic(product, (shape, operation), &key, &mut found)?;
        let mut times = Vec::new();
        for found in &found[..count] {
            let plan = Plan { operation, algorithm: found.algorithm };
            let ready = Ready { plan, layouts: layouts(&self.library, product, shape)? };
            let seconds = time(&mut || check("cublasLtMatmul", self.multiply(product, ready, stream)))?;
            times.push((self.described(&plan.algorithm), seconds));
        }
        Ok(times)
    }

    /// Number, tile, parts of the sum, stages and cluster of an algorithm.
    fn described(&self, algorithm: &Algorithm) -> String {
        let get = |attribute: c_int| {
            let (mut value, mut written) = (0u32, 0usize);
            // SAFETY: the attribute is at most as large as said.
            unsafe {
                (self.library.algorithm_get)(
                    algorithm,
                    attribute,
                    ptr::from_mut(&mut value).cast(),
                    4,
                    &mut written,
                )
            };
            value
        };
        format!(
            "id {} tile {} parts {} stages {} inner {} cluster {}",
            get(0),
            get(1),
            get(2),
            get(6),
            get(7),
            get(8)
        )
    }
}
