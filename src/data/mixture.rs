//! Mixtures: sources whose records count more or less often.

use super::dataset::Dataset;
use super::shuffle::permutation;

/// Returns the examples with each source repeated `weights[source]` times: the whole part repeats every example, and the
/// rest is a share of them, drawn by `seed`. The order of the files is kept, and so is a set whose weights are all 1.
#[must_use]
pub fn weighted(examples: &Dataset, weights: &[f64], seed: u64) -> Dataset {
    if weights.iter().all(|weight| *weight == 1.0) {
        return examples.clone();
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); weights.len()];
    for (index, entry) in examples.entries().enumerate() {
        if let Some(source) = members.get_mut(entry.source as usize) {
            source.push(index);
        }
    }
    let mut order = Vec::new();
    for (source, (indices, weight)) in members.iter().zip(weights).enumerate() {
        for _ in 0..weight.floor() as usize {
            order.extend(indices);
        }
        let rest = (weight.fract() * indices.len() as f64).round() as usize;
        let mut drawn = permutation("mixture", seed, source as u64, indices.len());
        drawn.truncate(rest);
        drawn.sort_unstable();
        order.extend(drawn.into_iter().filter_map(|at| indices.get(at)));
    }
    examples.select(order)
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Builder;
    use super::super::example::{Example, Kind, Origin};
    use super::*;

    #[test]
    fn whole_parts_repeat_and_fractions_are_drawn() {
        let mut builder = Builder::default();
        for i in 0..30 {
            let example = Example {
                prompt: vec![i],
                completions: vec![vec![1]],
                kind: Kind::Text,
                origin: Origin::new("t", 1 + i as usize),
            };
            builder.push(&example, usize::from(i >= 10), i as usize);
        }
        let set = builder.finish("").unwrap();
        let lines = |weights: &[f64], seed| -> Vec<u64> {
            weighted(&set, weights, seed).entries().map(|entry| entry.line).collect()
        };
        assert_eq!(lines(&[1.0, 1.0], 1), (1..=30).collect::<Vec<_>>());
        assert_eq!(lines(&[2.0, 1.0], 1), (1..=10).chain(1..=10).chain(11..=30).collect::<Vec<_>>());
        let half = lines(&[1.0, 0.5], 1);
        assert_eq!(half.len(), 20);
        assert!(half.is_sorted() && half[10..].iter().all(|line| *line > 10));
        assert_eq!(half, lines(&[1.0, 0.5], 1));
        assert_ne!(half, lines(&[1.0, 0.5], 2));
        assert_eq!(lines(&[1.5, 0.0], 3).len(), 15);
    }
}
