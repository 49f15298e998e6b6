//! Kernels for matrices: dequantisation, copies to and from flat buffers, dropout, and products.

use super::{BLOCK, Kernels, Rows, runs};
use crate::device::{Address, Arena, Arg, Form, Kind, Launch, Product};
use crate::error::Result;

/// Approximate number of terms in each part of a long sum.
const PART: usize = 2048;

impl Kernels<'_> {
    /// Dequantises blocks.
    pub(in crate::model::engine) fn dequantise(
        &self,
        blocks: Address,
        (kind, bytes): (i32, usize),
        (rows, columns): (usize, usize),
        out: Rows,
    ) -> Result<()> {
        for (first, count) in runs(rows) {
            let blocks = blocks.plus(first * (bytes / rows));
            let out = self.behind(out, first);
            let args = args![blocks, kind, columns, out.at, out.pitch];
            let bytes = count * (bytes / rows + columns * self.size());
            let grid = [columns.div_ceil(4096), count];
            self.launch("embed", "dequantise", (grid, BLOCK, 0), args, (bytes, 0))?;
        }
        Ok(())
    }

    /// Copies matrices from a flat buffer to the places given by the table.
    pub(in crate::model::engine) fn pack(
        &self,
        values: Address,
        (table, entries): (Address, usize),
        numbers: usize,
    ) -> Result<()> {
        self.table("pack", entries, args![values, table], numbers)
    }

    /// Copies matrices back, the reverse of [`Kernels::pack`].
    pub(in crate::model::engine) fn unpack(
        &self,
        (table, entries): (Address, usize),
        values: Address,
        numbers: usize,
    ) -> Result<()> {
        self.table("unpack", entries, args![table, values], numbers)
    }

    fn table(&self, name: &str, entries: usize, args: &[Arg], numbers: usize) -> Result<()> {
        let (module, grid, bytes) = ("lora", [entries, 32], 8 * numbers);
        self.device.launch(&Launch { module, name, grid, block: BLOCK, shared: 0, args, bytes, flop: 0 })
    }

    /// Computes `out = x∘factors` for dropout.
    pub(in crate::model::engine) fn dropout(
        &self,
        (x, out): (Rows, Rows),
        (rows, columns): (usize, usize),
        (key, probability): (u64, f32),
    ) -> Result<()> {
        let args = args![x.at, x.pitch, out.at, out.pitch, columns, key, probability];
        let bytes = 2 * rows * columns * self.size();
        self.launch("lora", "dropout", ([rows, 1], BLOCK, 0), args, (bytes, 0))
    }

    /// Computes `dx += t∘factors`.
    pub(in crate::model::engine) fn dropout_add(
        &self,
        (t, dx): (Rows, Rows),
        (rows, columns): (usize, usize),
        (key, probability): (u64, f32),
    ) -> Result<()> {
        let args = args![t.at, t.pitch, dx.at, dx.pitch, columns, key, probability];
        let bytes = 3 * rows * columns * self.size();
        self.launch("lora", "dropout_add", ([rows, 1], BLOCK, 0), args, (bytes, 0))
    }

    /// Computes a product of activations; the result has the same storage type.
    pub(in crate::model::engine) fn product(
        &self,
        form: Form,
        shape: [usize; 3],
        a: Rows,
        b: Rows,
        c: Rows,
    ) -> Result<()> {
        let [a, b, c] = [a, b, c].map(|rows| rows.matrix(self.kind));
        self.device.product(&Product { form, shape, a, b, c, add: false, parts: 1, split: false })
    }

    /// Like [`Kernels::product`], for a narrow result with long sums. The sums are split into parts of about [`PART`]
    /// terms, whose results are added in order, so that the whole device has work. The number of parts depends only on
    /// the length.
    pub(in crate::model::engine) fn thin_product(
        &self,
        memory: &mut Arena,
        form: Form,
        shape: [usize; 3],
        (a, b): (Rows, Rows),
        c: Rows,
    ) -> Result<()> {
        let [rows, columns, length] = shape;
        let Some(parts) = (2..=length / PART).rev().find(|parts| length.is_multiple_of(parts * 64)) else {
            return self.product(form, shape, a, b, c);
        };
        let mark = memory.mark();
        let sums = Rows::new(memory.take(4 * parts * rows * columns)?, columns);
        let (a, b, to) = (a.matrix(self.kind), b.matrix(self.kind), sums.matrix(Kind::F32));
        self.device.product(&Product { form, shape, a, b, c: to, add: false, parts, split: false })?;
        let args = args![sums.at, parts, rows, columns, c.at, c.pitch];
        let bytes = rows * columns * (4 * parts + self.size());
        self.launch(
            "lora",
            "sum_parts",
            ([(rows * columns).div_ceil(BLOCK), 1], BLOCK, 0),
            args,
            (bytes, 0),
        )?;
        memory.reset(mark)
    }

    /// Like [`Kernels::product`], but the sums may be split into parts.
    pub(in crate::model::engine) fn split_product(
        &self,
        form: Form,
        shape: [usize; 3],
        a: Rows,
        b: Rows,
        c: Rows,
    ) -> Result<()> {
        let [a, b, c] = [a, b, c].map(|rows| rows.matrix(self.kind));
        self.device.product(&Product { form, shape, a, b, c, add: false, parts: 1, split: true })
    }

    /// Computes a product with an f32 result.
    pub(in crate::model::engine) fn wide_product(
        &self,
        form: Form,
        shape: [usize; 3],
        (a, b): (Rows, Rows),
        c: Rows,
        (add, split): (bool, bool),
    ) -> Result<()> {
        let (a, b, c) = (a.matrix(self.kind), b.matrix(self.kind), c.matrix(Kind::F32));
        self.device.product(&Product { form, shape, a, b, c, add, parts: 1, split })
    }
}
