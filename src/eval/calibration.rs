//! Whether σ(Δ) is the probability that it claims to be: how often the answer that it favours is the preferred one.

use serde::Serialize;

/// Bins of [½, 1].
const BINS: usize = 10;

/// A prediction: σ(Δ) and the label y in [0, 1], the degree to which the first answer is preferred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// σ(Δ): the probability that the first answer is preferred.
    pub probability: f64,
    /// y.
    pub label: f64,
}

impl Prediction {
    /// The prediction of a margin Δ in rewards.
    pub fn of_margin(margin: f64, label: f64) -> Self {
        Self { probability: 1.0 / (1.0 + (-margin).exp()), label }
    }

    /// Confidence in the favoured answer, and the label of that answer; ½ where neither is favoured.
    fn favoured(self) -> (f64, f64) {
        let Self { probability, label } = self;
        if probability > 0.5 {
            (probability, label)
        } else if probability < 0.5 {
            (1.0 - probability, 1.0 - label)
        } else {
            (0.5, 0.5)
        }
    }
}

/// Predictions of about the same confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// The least confidence.
    pub from: f64,
    /// The greatest.
    pub to: f64,
    /// Number of pairs.
    pub pairs: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// How often the favoured answer is the preferred one; soft labels count by their value.
    pub accuracy: f64,
}

/// Calibration over a set of pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Number of pairs.
    pub pairs: usize,
    /// Mean confidence.
    pub confidence: f64,
    /// Mean accuracy. A pair whose margin is 0 counts half.
    pub accuracy: f64,
    /// Expected calibration error: the mean of |accuracy − confidence| over the bins, weighted by their pairs (Guo et al.
    /// 2017, arXiv 1706.04599).
    pub ece: f64,
    /// The greatest |accuracy − confidence| of a bin.
    pub largest_error: f64,
    /// Mean (σ(Δ) − y)².
    pub brier: f64,
    /// Mean −y·log σ(Δ) − (1−y)·log σ(−Δ), in nats.
    pub log_loss: f64,
    /// Ten bins of equal width from ½ to 1; those without pairs are left out.
    pub bins: Vec<Bin>,
}

impl Calibration {
    /// Returns the calibration of predictions; `None` without any. Which answer of a pair stands first does not matter: each
    /// prediction counts with the answer that it favours.
    pub fn of(predictions: &[Prediction]) -> Option<Self> {
        let n = predictions.len();
        if n == 0 {
            return None;
        }
        let mut sums = [(0usize, 0.0, 0.0); BINS];
        for prediction in predictions {
            let (confidence, label) = prediction.favoured();
            let bin = (((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1);
            sums[bin].0 += 1;
            sums[bin].1 += confidence;
            sums[bin].2 += label;
        }
        let width = 0.5 / BINS as f64;
        let bin = |(i, (pairs, confidence, label)): (usize, &(usize, f64, f64))| Bin {
            from: 0.5 + i as f64 * width,
            to: 0.5 + (i + 1) as f64 * width,
            pairs: *pairs,
            confidence: confidence / *pairs as f64,
            accuracy: label / *pairs as f64,
        };
        let bins: Vec<Bin> = sums.iter().enumerate().filter(|(_, sum)| sum.0 > 0).map(bin).collect();
        let gap = |bin: &Bin| (bin.accuracy - bin.confidence).abs();
        let weighted = |value: fn(&Bin) -> f64| {
            bins.iter().map(|bin| value(bin) * bin.pairs as f64).sum::<f64>() / n as f64
        };
        let mean = |value: fn(&Prediction) -> f64| predictions.iter().map(value).sum::<f64>() / n as f64;
        Some(Self {
            pairs: n,
            confidence: weighted(|bin| bin.confidence),
            accuracy: weighted(|bin| bin.accuracy),
            ece: bins.iter().map(|bin| gap(bin) * bin.pairs as f64).sum::<f64>() / n as f64,
            largest_error: bins.iter().map(gap).fold(0.0, f64::max),
            brier: mean(|it| (it.probability - it.label).powi(2)),
            log_loss: mean(log_loss),
            bins,
        })
    }
}

/// −y·log p − (1−y)·log(1−p). A certain prediction that is wrong costs as much as the least probability of an f64 allows.
fn log_loss(it: &Prediction) -> f64 {
    let log = |p: f64| p.max(f64::MIN_POSITIVE).ln();
    -it.label * log(it.probability) - (1.0 - it.label) * log(1.0 - it.probability)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn bins_and_errors_by_hand() {
        // 0.9 with labels 1, 1, 0; 0.3, which favours the second, with label 0; and 0.5.
        let it = |probability, label| Prediction { probability, label };
        let found = Calibration::of(&[it(0.9, 1.0), it(0.9, 1.0), it(0.9, 0.0), it(0.3, 0.0), it(0.5, 0.75)])
            .unwrap();
        assert_eq!(found.bins.iter().map(|bin| bin.pairs).collect::<Vec<_>>(), [1, 1, 3]);
        // Neither is favoured by 0.5, which counts half.
        let gaps = [0.0, 0.3, 0.9 - 2.0 / 3.0];
        assert!((found.ece - (gaps[0] + gaps[1] + 3.0 * gaps[2]) / 5.0).abs() < 1e-12, "{found:?}");
        assert!((found.largest_error - 0.3).abs() < 1e-12);
        assert!((found.brier - (0.01 + 0.01 + 0.81 + 0.09 + 0.0625) / 5.0).abs() < 1e-12);
        assert!((found.accuracy - (2.0 + 1.0 + 0.5) / 5.0).abs() < 1e-12);
        assert_eq!(Calibration::of(&[]), None);
    }

    #[test]
    fn the_order_of_a_pair_does_not_matter() {
        let pairs: Vec<_> = (0..50).map(|i| (f64::from(i) / 7.0 - 3.01, f64::from(i % 3) / 2.0)).collect();
        let one: Vec<_> = pairs.iter().map(|(m, y)| Prediction::of_margin(*m, *y)).collect();
        let other: Vec<_> = pairs.iter().map(|(m, y)| Prediction::of_margin(-m, 1.0 - y)).collect();
        let (one, other) = (Calibration::of(&one).unwrap(), Calibration::of(&other).unwrap());
        assert!((one.ece - other.ece).abs() < 1e-12 && (one.log_loss - other.log_loss).abs() < 1e-12);
    }

    #[test]
    fn calibrated_margins_have_no_error_and_doubled_ones_have() {
        let (stream, n) = (Stream::new(1, "margins"), 40_000);
        let draw = |scale: f64| -> Calibration {
            let one = |i: u64| {
                let margin = 6.0 * f64::from(stream.uniform(2 * i)) - 3.0;
                let label = f64::from(stream.uniform(2 * i + 1)) < 1.0 / (1.0 + (-margin).exp());
                Prediction::of_margin(scale * margin, f64::from(u8::from(label)))
            };
            Calibration::of(&(0..n).map(one).collect::<Vec<_>>()).unwrap()
        };
        // The standard error of a bin of 4,000 is below 0.008.
        assert!(draw(1.0).ece < 0.012, "{}", draw(1.0).ece);
        let doubled = draw(2.0);
        assert!(doubled.ece > 0.08 && doubled.confidence > doubled.accuracy, "{doubled:?}");
    }

    #[test]
    fn certain_margins_are_finite() {
        let found =
            Calibration::of(&[Prediction::of_margin(1e4, 0.0), Prediction::of_margin(-1e4, 0.0)]).unwrap();
        assert!(found.log_loss.is_finite() && found.brier == 0.5);
    }
}
