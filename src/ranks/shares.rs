//! Which rank computes which micro-batches of a step.

use std::ops::Range;

/// Divides micro-batches with these numbers of tokens among ranks: each gets a range, in order, so that the largest sum of
/// tokens is as small as possible, and the first ranks get something if there are fewer micro-batches than ranks.
pub fn shares(tokens: &[usize], ranks: usize) -> Vec<Range<usize>> {
    let (longest, all) = (tokens.iter().copied().max().unwrap_or(0), tokens.iter().sum());
    // The least capacity with which `ranks` ranges suffice.
    let (mut low, mut high) = (longest, all);
    while low < high {
        let middle = low + (high - low) / 2;
        if filled(tokens, ranks, middle).is_some() { high = middle } else { low = middle + 1 }
    }
    filled(tokens, ranks, high).unwrap_or_default()
}

/// Ranges of at most `capacity` tokens; `None` if there are more than `ranks`. No rank is left without a micro-batch if
/// there are enough of them.
fn filled(tokens: &[usize], ranks: usize, capacity: usize) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::with_capacity(ranks);
    let mut next = 0;
    for rank in 0..ranks {
        let (start, mut sum) = (next, 0);
        // What the ranks behind this one need at least.
        let most = tokens.len().saturating_sub(ranks - rank - 1).max((start + 1).min(tokens.len()));
        while next < most && sum + tokens[next] <= capacity {
            sum += tokens[next];
            next += 1;
        }
        found.push(start..next);
    }
    (next == tokens.len()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_and_none_is_larger_than_it_must_be() {
        let most = |tokens: &[usize], ranks| {
            let found = shares(tokens, ranks);
            assert_eq!(found.len(), ranks);
            assert!(found.windows(2).all(|two| two[0].end == two[1].start), "{found:?}");
            assert_eq!((found[0].start, found[ranks - 1].end), (0, tokens.len()));
            found.into_iter().map(|range| tokens[range].iter().sum::<usize>()).max().unwrap()
        };
        assert_eq!(most(&[5, 5, 5, 5], 2), 10);
        assert_eq!(most(&[9, 1, 1, 1, 1, 1], 2), 9);
        assert_eq!(most(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 3), 17);
        assert_eq!(most(&[7], 3), 7);
        assert_eq!(most(&[], 2), 0);
        // Against every way to cut seven micro-batches into three ranges.
        let tokens = [4, 9, 2, 7, 7, 1, 3];
        let of = |range: Range<usize>| tokens[range].iter().sum::<usize>();
        let best = (0..=7).flat_map(|a| (a..=7).map(move |b| (a, b)));
        let best = best.map(|(a, b)| of(0..a).max(of(a..b)).max(of(b..7))).min().unwrap();
        assert_eq!(most(&tokens, 3), best);
    }

    #[test]
    fn every_rank_has_work_if_there_is_enough() {
        assert_eq!(shares(&[8, 1, 1, 1], 4), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(shares(&[8, 1], 4), [0..1, 1..2, 2..2, 2..2]);
        assert_eq!(shares(&[1, 1, 1, 8], 2), [0..3, 3..4]);
    }
}
