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

/// Returns where the policy that takes the best of `n` draws is, from samples of a prompt: its expected value, and its
/// divergence KL(best of n ‖ policy) in nats. `scores` decide which draw is the best, and `values` are what it is worth; they
/// are the same numbers unless the choice is by another reward. With p the probability of a score and q that of being the
/// greatest of `n`, both from the samples, the divergence is Σ q log(q/p): draws with equal scores are chosen as often as they
/// are drawn, so it is below [`kl_bound`] where scores repeat. q has no bias; the logarithm has little if there are several
/// times `n` samples. `None` if there are fewer samples than `n`, `n` is 0, or the lists differ in length.
pub fn best_of(scores: &[f64], values: &[f64], n: usize) -> Option<(f64, f64)> {
    let total = scores.len();
    if n == 0 || n > total || values.len() != total {
        return None;
    }
    let mut order: Vec<usize> = (0..total).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    // The share of the subsets of size n that are within the `count` least: C(count, n) / C(total, n).
    let within = |count: usize| -> f64 {
        if count < n { 0.0 } else { (0..n).map(|i| (count - i) as f64 / (total - i) as f64).product() }
    };
    let (mut below, mut value, mut divergence) = (0, 0.0, 0.0);
    for equal in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let p = equal.len() as f64 / total as f64;
        let q = within(below + equal.len()) - within(below);
        below += equal.len();
        value += q * equal.iter().map(|i| values[*i]).sum::<f64>() / equal.len() as f64;
        if q > 0.0 {
            divergence += q * (q / p).ln();
        }
    }
    // The estimate is too great where all scores differ. The bound holds for every distribution.
    Some((value, divergence.clamp(0.0, kl_bound(n))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

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

    #[test]
    fn the_best_of_a_known_distribution_is_where_it_should_be() {
        // Scores 0, 1 and 2 with probabilities ½, 0.3 and 0.2; of three draws the greatest is 0 with probability ⅛, and so on.
        let (p, worth) = ([0.5, 0.3, 0.2f64], [5.0, -1.0, 2.0]);
        let q = [0.125, 0.512 - 0.125, 1.0 - 0.512f64];
        let stream = Stream::new(7, "scores");
        let level = |i: usize| match f64::from(stream.uniform(i as u64)) {
            u if u < 0.5 => 0,
            u if u < 0.8 => 1,
            _ => 2,
        };
        let levels: Vec<usize> = (0..20_000).map(level).collect();
        let scores: Vec<f64> = levels.iter().map(|level| *level as f64).collect();
        let values: Vec<f64> = levels.iter().map(|level| worth[*level]).collect();
        let (value, divergence) = best_of(&scores, &values, 3).unwrap();
        let expected: f64 = q.iter().zip(worth).map(|(q, w)| q * w).sum();
        let exact: f64 = q.iter().zip(p).map(|(q, p)| q * (q / p).ln()).sum();
        assert!((value - expected).abs() < 0.05 && (divergence - exact).abs() < 0.01, "{value} {divergence}");
        assert!(exact < kl_bound(3));
        assert_eq!(best_of(&scores, &values, 1).unwrap().1, 0.0);
    }

    #[test]
    fn without_ties_the_divergence_is_nearly_the_bound_and_the_value_the_expected_best() {
        let stream = Stream::new(3, "scores");
        let scores: Vec<f64> = (0..512).map(|i| f64::from(stream.uniform(i))).collect();
        for n in [2, 8, 64] {
            let (value, divergence) = best_of(&scores, &scores, n).unwrap();
            assert!((value - expected_best(&scores, n).unwrap()).abs() < 1e-12);
            assert!((divergence - kl_bound(n)).abs() < 0.08, "{n}: {divergence} {}", kl_bound(n));
        }
        // All scores are equal: the best is any of them.
        assert_eq!(best_of(&[1.0; 9], &scores[..9], 4).unwrap().1, 0.0);
        assert_eq!(best_of(&scores[..3], &scores[..3], 4), None);
        assert_eq!(best_of(&scores[..3], &scores[..2], 1), None);
    }
}
