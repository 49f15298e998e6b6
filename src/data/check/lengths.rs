//! Percentiles and a histogram of lengths.

use serde::Serialize;

/// The lengths of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// The number of values.
    pub count: usize,
    /// The median.
    pub p50: u32,
    /// 90 % are at most so long.
    pub p90: u32,
    /// 99 % are at most so long.
    pub p99: u32,
    /// The longest.
    pub max: u32,
}

impl Percentiles {
    /// Sorts `lengths`. Percentile p is the smallest value that at least p % do not exceed (the nearest rank). `None` of
    /// nothing.
    pub fn of(lengths: &mut [u32]) -> Option<Self> {
        lengths.sort_unstable();
        let rank = |percent: usize| (lengths.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent| lengths.get(rank(percent)).copied();
        Some(Self { count: lengths.len(), p50: at(50)?, p90: at(90)?, p99: at(99)?, max: at(100)? })
    }
}

/// Lengths from `from` to `to`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// The shortest.
    pub from: u32,
    /// The longest.
    pub to: u32,
    /// The number of records.
    pub count: usize,
}

/// Counts `lengths` by powers of two, from the shortest that occurs to the longest: 0, 1, 2 to 3, 4 to 7, ...
pub fn histogram(lengths: &[u32]) -> Vec<Bar> {
    let bits = |length: u32| (u32::BITS - length.leading_zeros()) as usize;
    let mut counts = [0; u32::BITS as usize + 1];
    lengths.iter().for_each(|length| counts[bits(*length)] += 1);
    let bar = |(bits, count): (usize, &usize)| {
        let to = (1_u64 << bits) - 1;
        Bar { from: to.div_ceil(2) as u32, to: to as u32, count: *count }
    };
    let bars: Vec<Bar> = counts.iter().enumerate().map(bar).collect();
    let first = bars.iter().position(|bar| bar.count > 0).unwrap_or(bars.len());
    let end = bars.iter().rposition(|bar| bar.count > 0).map_or(first, |last| last + 1);
    bars[first..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut lengths: Vec<u32> = (1..=200).rev().collect();
        let expected = Percentiles { count: 200, p50: 100, p90: 180, p99: 198, max: 200 };
        assert_eq!(Percentiles::of(&mut lengths), Some(expected));
        let one = Percentiles { count: 1, p50: 7, p90: 7, p99: 7, max: 7 };
        assert_eq!(Percentiles::of(&mut [7]), Some(one));
        assert_eq!(Percentiles::of(&mut []), None);
    }

    #[test]
    fn a_histogram_goes_by_powers_of_two_without_gaps() {
        let bars = histogram(&[3, 2, 9, 15, 8]);
        let bar = |from, to, count| Bar { from, to, count };
        assert_eq!(bars, [bar(2, 3, 2), bar(4, 7, 0), bar(8, 15, 3)]);
        assert_eq!(histogram(&[0, 1, u32::MAX]).len(), 33);
        assert_eq!(histogram(&[0]), [bar(0, 0, 1)]);
        assert!(histogram(&[]).is_empty());
    }
}
