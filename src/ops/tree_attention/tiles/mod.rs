//! Attention in AMX tiles, for products whose operands are rounded to bf16.
//!
//! Keys and values are packed once per run of keys and key head, in panels of 32 keys that begin where their run begins,
//! and not once per block of queries. A block has 32 queries of one head. Scores leave the tiles as squares of 32 by 32,
//! and one pass over a square turns them into weights, rounds these and writes them as the next product's panel.
//!
//! A row's bits depend on its tree alone: panels and blocks count from the beginning of their run, and sums go in that
//! order.

mod backward;
mod forward;
mod keys;
mod squares;
mod view;

use super::Attended;
use crate::ops::gemm::Precision;
use crate::ops::gemm::panels::Tiler;

pub(super) use backward::parts;
pub(super) use forward::forward;

/// Whether this pass is computed in tiles.
pub(super) fn fits(attended: &Attended) -> bool {
    let heads = attended.heads;
    attended.precision == Precision::Bf16 && heads.softcap.is_none() && heads.head_dim > 0 && Tiler::exists()
}
