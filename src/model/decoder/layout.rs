//! Layout of the rows of a packed batch: which rows see which, which are wanted, and which sums belong to a completion.

use crate::data::PackedBatch;
use crate::ops::token_logps::TokenLogps;
use crate::ops::tree_attention::{Span, TreeSpans};

/// Which rows of a batch see which.
pub(super) fn spans(batch: &PackedBatch) -> Vec<TreeSpans> {
    batch
        .trees
        .iter()
        .map(|tree| {
            let (prompt, nothing) = (tree.prompt.clone(), tree.prompt.start..tree.prompt.start);
            let mut spans = vec![Span { queries: prompt.clone(), prefix: nothing, own: prompt.clone() }];
            let completions = tree.completions.iter().cloned();
            spans.extend(completions.map(|own| Span { queries: own.clone(), prefix: prompt.clone(), own }));
            let end = tree.completions.last().map_or(prompt.end, |last| last.end);
            TreeSpans { rows: prompt.start..end, spans }
        })
        .collect()
}

/// The distinct rows, ascending, and the index of each of `rows` among them. Siblings share the prompt's last row.
pub(super) fn distinct(rows: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut distinct = rows.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let places = rows.iter().map(|row| distinct.partition_point(|other| other < row) as u32).collect();
    (distinct, places)
}

/// The weight of each scored token, which is that of its completion.
pub(super) fn per_token(batch: &PackedBatch, weights: &[f64]) -> Vec<f32> {
    let of =
        |(range, weight): (&std::ops::Range<usize>, &f64)| std::iter::repeat_n(*weight as f32, range.len());
    batch.scored.iter().zip(weights).flat_map(of).collect()
}

/// Sums the token log-probs of each completion, in f64.
pub(super) fn sums(logps: &[f32], batch: &PackedBatch) -> Vec<f64> {
    batch.scored.iter().map(|range| logps[range.clone()].iter().map(|l| f64::from(*l)).sum()).collect()
}

/// Sums log p − log Σ p² over the tokens of each completion, in f64, if it was computed.
pub(super) fn aligned(found: &TokenLogps, batch: &PackedBatch) -> Option<Vec<f64>> {
    let squares = found.log_sum_squares.as_ref()?;
    let of = |at: usize| f64::from(found.logps[at]) - f64::from(squares[at]);
    Some(batch.scored.iter().map(|range| range.clone().map(of).sum()).collect())
}
