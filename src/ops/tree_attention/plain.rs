//! The plain form: a masked softmax over all keys, in tensor operations.

use candle_core::{D, Device, Tensor};

use super::{Heads, TreeSpans};
use crate::error::Result;

/// Like [`super::forward`], with composite (differentiable) tensor operations and a full mask.
pub fn reference(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads, trees: &[TreeSpans]) -> Result<Tensor> {
    let Heads { n_head, n_kv_head, head_dim, scale, softcap, .. } = *heads;
    let ((queries, width), (keys, _)) = (q.dims2()?, k.dims2()?);
    let mask = mask(queries, keys, heads, trees)?; // [Tq, Tk]
    let by_head = |x: &Tensor, rows, n| -> Result<Tensor> {
        Ok(x.reshape((rows, n, head_dim))?.transpose(0, 1)?.contiguous()?) // [n, T, head_dim]
    };
    let (q, k, v) =
        (by_head(q, queries, n_head)?, by_head(k, keys, n_kv_head)?, by_head(v, keys, n_kv_head)?);
    let group: Vec<u32> = (0..n_head).map(|h| (h / (n_head / n_kv_head)) as u32).collect();
    let group = Tensor::new(group, q.device())?;
    let (k, v) = (k.index_select(&group, 0)?, v.index_select(&group, 0)?);
    let mut scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(scale))?; // [n_head, Tq, Tk]
    if let Some(c) = softcap {
        scores = ((scores / f64::from(c))?.tanh()? * f64::from(c))?;
    }
    let scores = scores.broadcast_add(&mask)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    Ok(weights.matmul(&v)?.transpose(0, 1)?.reshape((queries, width))?)
}

/// Returns a mask that is 0 where a query sees a key and −∞ elsewhere.
fn mask(queries: usize, keys: usize, heads: &Heads, trees: &[TreeSpans]) -> Result<Tensor> {
    let mut mask = vec![f32::NEG_INFINITY; queries * keys];
    for span in trees.iter().flat_map(|tree| &tree.spans) {
        for (i, query) in span.queries.clone().enumerate() {
            let position = span.prefix.len() + i;
            let seen = span.prefix.clone().chain(span.own.clone().take(i + 1)).enumerate();
            for (key_position, key) in seen {
                if heads.window.is_none_or(|w| position - key_position < w) {
                    mask[query * keys + key] = 0.0;
                }
            }
        }
    }
    Ok(Tensor::from_vec(mask, (queries, keys), &Device::Cpu)?)
}
