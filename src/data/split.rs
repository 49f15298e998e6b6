//! Holds out a part of the training data for evaluation.

use super::shuffle::permutation;
use crate::error::{Error, Result};

/// Splits `items` into (training, held out), each in its original order.
///
/// `round(fraction · len)` items are held out, with at least one item on each side. The selection is a pure function of
/// `seed` and the number of items.
///
/// # Errors
/// Fails if there are fewer than two items or `fraction` is outside (0, 1).
pub fn hold_out<T>(items: Vec<T>, fraction: f64, seed: u64) -> Result<(Vec<T>, Vec<T>)> {
    let len = items.len();
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::Config(format!(
            "data.eval is {fraction}; a held-out fraction lies between 0 and 1"
        )));
    }
    if len < 2 {
        return Err(Error::Data(format!(
            "data.eval = {fraction} of {len} record(s) leaves nothing to train on or to evaluate; name a file instead"
        )));
    }
    let held = ((len as f64 * fraction).round() as usize).clamp(1, len - 1);
    let mut is_held = vec![false; len];
    for index in permutation("held out", seed, 0, len).into_iter().take(held) {
        is_held[index] = true;
    }
    let (mut train, mut eval) = (Vec::with_capacity(len - held), Vec::with_capacity(held));
    for (item, held) in items.into_iter().zip(is_held) {
        if held { eval.push(item) } else { train.push(item) }
    }
    Ok((train, eval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_disjointly_by_seed_and_keeps_order() {
        let (train, eval) = hold_out((0..25).collect(), 0.1, 7).unwrap();
        assert_eq!((train.len(), eval.len()), (22, 3), "round(2.5) = 3");
        assert!(train.is_sorted() && eval.is_sorted());
        let mut all = [train, eval.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..25).collect::<Vec<_>>());
        assert_eq!(hold_out((0..25).collect(), 0.1, 7).unwrap().1, eval);
        assert!((0..5).any(|seed| hold_out((0..25).collect(), 0.1, seed).unwrap().1 != eval));
    }

    #[test]
    fn both_sides_have_at_least_one() {
        assert_eq!(hold_out(vec![1, 2], 0.01, 0).unwrap().1.len(), 1);
        assert_eq!(hold_out(vec![1, 2], 0.99, 0).unwrap().0.len(), 1);
        assert!(hold_out(vec![1], 0.5, 0).is_err());
        for fraction in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(hold_out(vec![1, 2], fraction, 0).is_err(), "{fraction}");
        }
    }
}
