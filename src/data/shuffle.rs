//! Permutations from a named stream: the same purpose, seed and epoch give the same order on every machine.

/// Returns a permutation of `0..len`, a pure function of its arguments.
///
/// The stream is BLAKE3 in extendable-output mode keyed by `purpose`, `seed` and `epoch`, so these three are the only
/// state to save. The shuffle is Fisher–Yates with unbiased index draws.
pub fn permutation(purpose: &str, seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut hasher = blake3::Hasher::new_derive_key("dpo-lora permutation v1");
    hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes()).update(purpose.as_bytes());
    let mut stream = hasher.finalize_xof();
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, below(&mut stream, last as u64 + 1) as usize);
    }
    order
}

/// Returns a uniform number in `0..bound` (Lemire 2019, arXiv 1805.10941: multiply, keep the high half, reject the
/// biased rest).
fn below(stream: &mut blake3::OutputReader, bound: u64) -> u64 {
    loop {
        let mut word = [0; 8];
        stream.fill(&mut word);
        let product = u128::from(u64::from_le_bytes(word)) * u128::from(bound);
        if product as u64 >= bound.wrapping_neg() % bound {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_permutation_that_depends_on_every_argument() {
        let base = permutation("train", 1, 0, 100);
        let mut sorted = base.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(base, permutation("train", 1, 0, 100));
        for other in
            [permutation("eval", 1, 0, 100), permutation("train", 2, 0, 100), permutation("train", 1, 1, 100)]
        {
            assert_ne!(base, other);
        }
        assert!(permutation("train", 1, 0, 0).is_empty());
        assert_eq!(permutation("train", 1, 0, 1), [0]);
    }

    #[test]
    fn every_order_is_as_likely() {
        // 6 permutations of 3, 6000 draws: 1000 each, standard deviation √(6000·1/6·5/6) = 28.9; five of them are
        // allowed.
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            *counts.entry(permutation("t", seed, 0, 3)).or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|n| (n - 1000).abs() < 145), "{counts:?}");
    }
}
