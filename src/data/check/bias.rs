//! Whether the chosen answers are longer than the rejected ones: a model then learns to be long.

use serde::Serialize;

/// |z| from which a difference is more than chance: 2.58 would be 1 % of data without any.
const SIGNIFICANT: f64 = 2.58;

/// The difference of the lengths, chosen − rejected, over all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bias {
    /// The number of pairs.
    pub pairs: usize,
    /// The share of pairs whose chosen answer is longer.
    pub chosen_longer: f64,
    /// The share of pairs whose rejected answer is longer.
    pub rejected_longer: f64,
    /// The mean difference.
    pub mean_difference: f64,
    /// The mean in units of its standard error, sd / √n. `None` if all differences are equal.
    pub z: Option<f64>,
}

impl Bias {
    /// Whether the difference is more than chance explains.
    pub fn is_significant(&self) -> bool {
        self.z.map_or(self.pairs > 1 && self.mean_difference != 0.0, |z| z.abs() >= SIGNIFICANT)
    }
}

/// Sums over pairs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Differences {
    pairs: usize,
    longer: usize,
    shorter: usize,
    /// Whole numbers, so that the sums are exact.
    sum: i64,
    squares: u128,
}

impl Differences {
    /// Adds a pair.
    pub fn add(&mut self, chosen: u32, rejected: u32) {
        let difference = i64::from(chosen) - i64::from(rejected);
        self.pairs += 1;
        self.longer += usize::from(difference > 0);
        self.shorter += usize::from(difference < 0);
        self.sum += difference;
        self.squares += u128::from(difference.unsigned_abs()).pow(2);
    }

    /// Returns the figures; `None` without pairs.
    pub fn bias(&self) -> Option<Bias> {
        let n = self.pairs as f64;
        let mean = (self.pairs > 0).then(|| self.sum as f64 / n)?;
        let spread = self.squares as f64 - n * mean * mean;
        let error = (spread / (n - 1.0) / n).sqrt();
        Some(Bias {
            pairs: self.pairs,
            chosen_longer: self.longer as f64 / n,
            rejected_longer: self.shorter as f64 / n,
            mean_difference: mean,
            z: (error.is_finite() && error > 0.0).then(|| mean / error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(u32, u32)]) -> Option<Bias> {
        let mut differences = Differences::default();
        pairs.iter().for_each(|(chosen, rejected)| differences.add(*chosen, *rejected));
        differences.bias()
    }

    #[test]
    fn mean_and_its_standard_error() {
        // Differences 2, 4, −1, 3: mean 2, sample variance (0 + 4 + 9 + 1) / 3, error √(14 / 3 / 4).
        let bias = of(&[(5, 3), (4, 0), (1, 2), (9, 6)]).unwrap();
        assert_eq!((bias.pairs, bias.chosen_longer, bias.rejected_longer), (4, 0.75, 0.25));
        assert!((bias.z.unwrap() - 2.0 / (14.0_f64 / 12.0).sqrt()).abs() < 1e-12, "{bias:?}");
        assert!(!bias.is_significant());
    }

    #[test]
    fn equal_differences_have_no_z() {
        let bias = of(&[(3, 1), (4, 2)]).unwrap();
        assert_eq!((bias.mean_difference, bias.z, bias.is_significant()), (2.0, None, true));
        assert!(!of(&[(3, 3), (2, 2)]).unwrap().is_significant());
        assert_eq!(of(&[(3, 1)]).unwrap().z, None);
        assert_eq!(of(&[]), None);
    }
}
