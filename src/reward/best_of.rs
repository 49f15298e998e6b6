//! Best-of-N: N completions of a prompt are drawn, and the one with the greatest reward is taken.

/// Returns the index of the greatest reward, the first of several; `None` if there are none.
pub fn best(rewards: &[f64]) -> Option<usize> {
    (0..rewards.len()).reduce(|best, next| if rewards[next] > rewards[best] { next } else { best })
}

/// Returns log N − (N−1)/N, in nats: an upper bound of KL(best-of-N ‖ policy), which is reached where all completions
/// have different rewards and small probabilities (Stiennon et al. 2020, arXiv 2009.01325, appendix G.3; Beirami et al.
/// 2024, arXiv 2401.01879, theorem 1).
pub fn kl_bound(n: usize) -> f64 {
    let n = n.max(1) as f64;
    n.ln() - (n - 1.0) / n
}

/// Returns the expected greatest reward of `n` independent draws from the distribution of which `rewards` are samples.
/// It is the mean over all subsets of size `n`, which has no bias for `n` up to the number of samples (Nakano et al. 2021,
/// arXiv 2112.09332, appendix I). `None` if there are fewer samples than `n`, or `n` is 0.
pub fn expected_best(rewards: &[f64], n: usize) -> Option<f64> {
    let total = rewards.len();
    if n == 0 || n > total {
        return None;
    }
    let mut sorted = rewards.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The i-th smallest (from 1) is the greatest of C(i−1, n−1) of the C(total, n) subsets. The share of the greatest is
    // n / total, and each share follows from the next one.
    let mut share = n as f64 / total as f64;
    let mut expected = 0.0;
    for i in (n..=total).rev() {
        expected += share * sorted[i - 1];
        // C(i−2, n−1) / C(i−1, n−1) = (i − n) / (i − 1)
        share *= (i - n) as f64 / (i.max(2) - 1) as f64;
    }
    Some(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_greatest_is_best() {
        assert_eq!(best(&[1.0, 3.0, 3.0, -2.0]), Some(1));
        assert_eq!(best(&[-1.0]), Some(0));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn the_bound_is_that_of_the_paper() {
        assert_eq!(kl_bound(1), 0.0);
        // ln 2 − 1/2 and ln 128 − 127/128.
        assert!((kl_bound(2) - 0.193_147_180_559_945).abs() < 1e-14);
        assert!((kl_bound(128) - (4.852_030_263_919_617 - 0.992_187_5)).abs() < 1e-12);
    }

    #[test]
    fn the_expected_best_is_the_mean_over_all_subsets() {
        let rewards = [0.3, -1.0, 2.5, 0.3, 7.0, -4.0];
        for n in 1..=6 {
            let (mut sum, mut count) = (0.0, 0);
            for subset in (0u32..64).filter(|subset| subset.count_ones() == n) {
                let inside = (0..6).filter(|i| subset >> i & 1 == 1).map(|i| rewards[i]);
                sum += inside.fold(f64::NEG_INFINITY, f64::max);
                count += 1;
            }
            let found = expected_best(&rewards, n as usize).unwrap();
            assert!((found - sum / f64::from(count)).abs() < 1e-12, "{n}: {found}");
        }
        assert_eq!(expected_best(&rewards, 7), None);
        assert_eq!(expected_best(&rewards, 0), None);
    }
}
