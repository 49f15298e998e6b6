//! Token-by-token decoding of many sequences at once, with keys and values kept on the device.

use super::Engine;
use super::batch::Input;
use super::forward::{Passing, Saved, Stream};
use super::kernels::{NormAt, Rows};
use crate::device::{Address, Buffer};
use crate::error::Result;
use crate::model::pass::Pass;
use crate::ops::tree_attention::{Span, TreeSpans};

/// Rows per sequence in a new cache.
const ROWS: usize = 256;

/// Keys and values of sequences on the device: `[sequences · capacity, width]` for each block.
#[derive(Debug, Default)]
pub struct DeviceCache {
    layers: Vec<(Buffer, Buffer)>,
    sequences: usize,
    /// Number of rows that each sequence has room for.
    capacity: usize,
}

/// The next tokens of a sequence in the cache.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    /// Index of the sequence.
    pub sequence: usize,
    /// Number of its rows so far.
    pub seen: usize,
    /// The tokens; at least one.
    pub tokens: &'a [u32],
}

impl Engine {
    /// Makes room for `rows` rows of each sequence, and keeps the rows seen so far.
    fn grow(&self, cache: &mut DeviceCache, sequences: usize, rows: usize) -> Result<()> {
        if rows <= cache.capacity && sequences <= cache.sequences {
            return Ok(());
        }
        let capacity = rows.max(cache.capacity).next_power_of_two().max(ROWS);
        let sequences = sequences.max(cache.sequences);
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let row = layer.widths().1 * self.kind.size();
            let fresh = || Buffer::zeros(&self.device, sequences * capacity * row);
            let (k, v) = (fresh()?, fresh()?);
            if let Some((old_k, old_v)) = cache.layers.get(i) {
                let (pitches, bytes) = ([capacity * row, cache.capacity * row], cache.capacity * row);
                for (to, from) in [(&k, old_k), (&v, old_v)] {
                    self.device.copy(to.at(), from.at(), pitches, bytes, cache.sequences)?;
                }
            }
            layers.push((k, v));
        }
        *cache = DeviceCache { layers, sequences, capacity };
        Ok(())
    }

    /// Copies the `rows` rows of sequence `from` to sequence `to`.
    ///
    /// # Errors
    /// If the device fails or runs out of memory.
    pub(in crate::model) fn copy_sequence(
        &self,
        cache: &mut DeviceCache,
        (from, to): (usize, usize),
        rows: usize,
    ) -> Result<()> {
        self.grow(cache, from.max(to) + 1, rows)?;
        for (layer, (k, v)) in self.layers.iter().zip(&cache.layers) {
            let row = layer.widths().1 * self.kind.size();
            let (sequence, bytes) = (cache.capacity * row, rows * row);
            for buffer in [k, v] {
                let (to, from) = (buffer.at().plus(to * sequence), buffer.at().plus(from * sequence));
                self.device.copy(to, from, [bytes, bytes], bytes, 1)?;
            }
        }
        Ok(())
    }

    /// Returns the logits `[next.len(), vocab]` after the last token of each sequence.
    ///
    /// # Errors
    /// If the device fails or runs out of memory.
    pub(in crate::model) fn step(
        &mut self,
        next: &[Next],
        cache: &mut DeviceCache,
        pass: Pass,
    ) -> Result<Vec<f32>> {
        let sequences = next.iter().map(|next| next.sequence + 1).max().unwrap_or(0);
        let rows = next.iter().map(|next| next.seen + next.tokens.len()).max().unwrap_or(0);
        self.grow(cache, sequences, rows)?;
        let marks = self.begin()?;
        let Layout { tokens, positions, kv_rows, trees, last } = layout(next, cache.capacity);
        let (count, hidden) = (tokens.len(), self.spec.hidden);
        let placed =
            self.place(&Input { tokens: &tokens, positions: &positions, trees: &trees, unread: 0 })?;
        let kv_rows = self.keep.put(&kv_rows)?;
        let branches = self.branches(count)?;
        let pass = Passing { placed: &placed, route: self.route(pass, None), branches };
        let x = self.take(true, 4 * count * hidden)?;
        self.embed(&placed, x)?;
        let mut stream = Stream { x, pending: None };
        let start = self.temp.mark();
        for i in 0..self.layers.len() {
            let (k, v) = &cache.layers[i];
            stream = self.decode_block(&pass, i, stream, (k.at(), v.at(), kv_rows))?;
            self.temp.reset(start)?;
        }
        let everything = (count, Address::NONE);
        self.kernels().norm_forward(
            x,
            everything,
            stream.pending,
            x,
            (NormAt::default(), Rows::NONE),
            hidden,
        )?;
        let logits = self.logits_at(x, &last)?;
        self.end(marks)?;
        Ok(logits)
    }

    fn decode_block(
        &mut self,
        pass: &Passing,
        i: usize,
        stream: Stream,
        (k, v, kv_rows): (Address, Address, Address),
    ) -> Result<Stream> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        let layer = self.layer(i);
        let (norm, pitch) = (layer.attention_norm(), layer.qkv.group.pitch_in());
        let mut saved = Saved { x: stream.x, a: self.take_rows(false, rows, pitch)?, ..Saved::default() };
        let x_out = if stream.pending.is_some() { stream.x } else { Address::NONE };
        let everything = (rows, Address::NONE);
        self.kernels().norm_forward(stream.x, everything, stream.pending, x_out, (norm, saved.a), hidden)?;
        self.attend(pass, i, &mut saved, false, kv_rows, Some((k, v)))?;
        Ok(self.feed_forward(pass, i, saved, false)?.1)
    }
}

/// The new rows of all sequences, concatenated.
struct Layout {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// The cache row for each row's key and value.
    kv_rows: Vec<u32>,
    trees: Vec<TreeSpans>,
    /// The last new row of each sequence.
    last: Vec<u32>,
}

fn layout(next: &[Next], capacity: usize) -> Layout {
    let mut all = Layout {
        tokens: Vec::new(),
        positions: Vec::new(),
        kv_rows: Vec::new(),
        trees: Vec::new(),
        last: Vec::new(),
    };
    for Next { sequence, seen, tokens } in next {
        let (first, start, count) = (all.tokens.len(), sequence * capacity, tokens.len());
        let queries = first..first + count;
        let span = Span {
            queries: queries.clone(),
            prefix: start..start + seen,
            own: start + seen..start + seen + count,
        };
        all.tokens.extend_from_slice(tokens);
        all.positions.extend((*seen..seen + count).map(|position| position as u32));
        all.kv_rows.extend(span.own.clone().map(|row| row as u32));
        all.last.push((first + count - 1) as u32);
        all.trees.push(TreeSpans { rows: queries, spans: vec![span] });
    }
    all
}
