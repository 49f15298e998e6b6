//! The sum of the gradients of a step's micro-batches, in the order of their indices, whichever ranks computed them.
//!
//! Additions of floating-point numbers are not associative, so that the order decides the bits. Rank r has the micro-batches
//! behind those of rank r − 1. The running sum passes from rank to rank, each adds its gradients in order, and the last one
//! sends the total back the same way. Both directions are cut into pieces and overlap: with n ranks, a gradient of b bytes
//! and links of w bytes per second, a step takes b/w and 2n pieces, and no link carries more than b bytes each way.

use super::post::Post;
use super::topic::Topic;
use crate::error::{Error, Result};

/// Numbers of a piece: 256 KiB.
const PIECE: usize = 1 << 16;

/// As `Ranks::sum_in_order`.
pub(super) fn in_order(post: &Post, own: &[Vec<f32>], sum: &mut [f32]) -> Result<()> {
    let pieces = sum.len().div_ceil(PIECE);
    let len = sum.len();
    let range = |piece: usize| piece * PIECE..((piece + 1) * PIECE).min(len);
    let is_last = post.rank + 1 == post.size;
    let (mut onward, mut back) = (0, 0);
    while back < pieces {
        if onward < pieces {
            let at = range(onward);
            if post.rank > 0 {
                read(&post.receive(post.rank - 1, Topic::Onward as u8)?, &mut sum[at.clone()])?;
            }
            for gradient in own {
                let added = gradient.get(at.clone()).ok_or_else(length)?;
                sum[at.clone()].iter_mut().zip(added).for_each(|(sum, g)| *sum += g);
            }
            if is_last {
                post.send(post.rank - 1, Topic::Back as u8, written(&sum[at]));
                back += 1;
            } else {
                post.send(post.rank + 1, Topic::Onward as u8, written(&sum[at]));
            }
            onward += 1;
        }
        // The total comes back while the rest still goes on.
        while !is_last && back < onward {
            let from = post.rank + 1;
            let arrived = match onward < pieces {
                true => post.received(from, Topic::Back as u8)?,
                false => Some(post.receive(from, Topic::Back as u8)?),
            };
            let Some(bytes) = arrived else { break };
            read(&bytes, &mut sum[range(back)])?;
            if post.rank > 0 {
                post.send(post.rank - 1, Topic::Back as u8, bytes);
            }
            back += 1;
        }
    }
    Ok(())
}

fn written(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * values.len() + 2);
    bytes.resize(4 * values.len(), 0);
    let (places, _) = bytes.as_chunks_mut::<4>();
    places.iter_mut().zip(values).for_each(|(place, value)| *place = value.to_le_bytes());
    bytes
}

fn read(bytes: &[u8], values: &mut [f32]) -> Result<()> {
    let (found, rest) = bytes.as_chunks::<4>();
    if found.len() != values.len() || !rest.is_empty() {
        return Err(length());
    }
    values.iter_mut().zip(found).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
    Ok(())
}

fn length() -> Error {
    Error::Ranks("the gradients of two ranks differ in length".into())
}
