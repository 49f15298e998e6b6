//! How much of what an adapter does is in the merged model.
//!
//! For every scored token t: `d_t = log π(t) − log π_base(t)`, what the adapter does to its log-prob, and
//! `m_t = log π_merged(t) − log π_base(t)`, what merging left of it. The share that survives is `Σ d·m / Σ d²`, the slope
//! of m on d: 1 for a perfect merge, 0 for the base itself, and errors that have nothing to do with the adapter cancel out
//! of it. They show in the divergence, KL(π ‖ π_merged), which is 0 for a perfect merge and KL(π ‖ π_base) for the base.

use super::probe::Probe;
use super::side::Side;
use crate::data::{Example, PackedBatch};
use crate::error::Result;
use crate::model::pass::Pass;
use crate::ops::Tensor;
use crate::report::Activity;

/// The three models.
pub(super) struct Models<'a> {
    /// Base and adapters.
    pub policy: Side<'a>,
    /// The base without adapters.
    pub base: Side<'a>,
    /// What was written.
    pub merged: Side<'a>,
}

/// Sums over all tokens and positions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effect {
    /// Scored tokens.
    pub tokens: usize,
    /// Σ d², Σ d·m, Σ m².
    squares: f64,
    product: f64,
    merged_squares: f64,
    /// Σ KL(π ‖ π_merged), Σ KL(π ‖ π_base), nats.
    lost: f64,
    whole: f64,
    /// The largest difference of a logit, policy against merged; the largest logit.
    pub furthest: f64,
    pub largest: f64,
    /// Σ over positions of the mean square of the difference, and of the logits about their mean.
    difference: f64,
    spread: f64,
    /// Texts whose likeliest tokens are not the base's; of these, where the merged model then goes the base's way.
    pub texts: usize,
    pub changed: usize,
    pub fallen_back: usize,
}

impl Effect {
    /// Measures on `probe`.
    ///
    /// # Errors
    /// If a sequence does not fit a model.
    pub fn measure(models: &Models, probe: &Probe) -> Result<Self> {
        let mut effect = Self::default();
        let activity = Activity::new("comparing", (probe.pairs.len() + probe.texts.len()) as u64);
        for example in &probe.pairs {
            effect.add(models, example, false)?;
            activity.advance(1);
        }
        for example in &probe.texts {
            effect.add(models, example, true)?;
            activity.advance(1);
        }
        Ok(effect)
    }

    /// The share of the log-prob shift that survived; `None` if there was none.
    pub fn share(&self) -> Option<f64> {
        (self.squares > 0.0).then(|| self.product / self.squares)
    }

    /// Standard error of the share, by what the slope leaves of m.
    pub fn share_error(&self) -> f64 {
        let Some(share) = self.share() else { return 0.0 };
        let rest = (self.merged_squares - share * self.product).max(0.0);
        (rest / self.squares / (self.tokens as f64 - 1.0).max(1.0)).sqrt()
    }

    /// KL(π ‖ π_merged), nats a token.
    pub fn lost(&self) -> f64 {
        self.lost / self.count()
    }

    /// KL(π ‖ π_base), nats a token.
    pub fn whole(&self) -> f64 {
        self.whole / self.count()
    }

    /// Root mean square of the adapter's shift of a log-prob, nats.
    pub fn shift(&self) -> f64 {
        (self.squares / self.count()).sqrt()
    }

    /// Root mean square of the difference of logits, each position's mean taken off.
    pub fn difference(&self) -> f64 {
        (self.difference / self.count()).sqrt()
    }

    /// Root mean square of logits about their position's mean.
    pub fn spread(&self) -> f64 {
        (self.spread / self.count()).sqrt()
    }

    fn count(&self) -> f64 {
        self.tokens.max(1) as f64
    }

    fn add(&mut self, models: &Models, example: &Example, greedy: bool) -> Result<()> {
        let batch = PackedBatch::new(&[example]);
        let rows =
            |side: Side, pass: Pass| side.decoder.logits(&batch, &batch.scored_rows, side.adapters, pass);
        let policy = rows(models.policy, Pass::Policy)?;
        let base = rows(models.base, Pass::Reference)?;
        let merged = rows(models.merged, Pass::Policy)?;
        for (i, target) in batch.scored_targets.iter().enumerate() {
            self.add_position(policy.row(i), base.row(i), merged.row(i), *target as usize);
        }
        if let Some(first) = batch.scored.first().filter(|_| greedy) {
            self.add_text(&batch.scored_targets[first.clone()], first.start, &base, &merged);
        }
        Ok(())
    }

    fn add_position(&mut self, policy: &[f32], base: &[f32], merged: &[f32], target: usize) {
        let [of_policy, of_base, of_merged] = [policy, base, merged].map(Row::new);
        let at = |row: &Row, logits: &[f32]| f64::from(logits[target]) - row.lse;
        let before = at(&of_base, base);
        let (d, m) = (at(&of_policy, policy) - before, at(&of_merged, merged) - before);
        self.tokens += 1;
        self.squares += d * d;
        self.product += d * m;
        self.merged_squares += m * m;
        self.lost += divergence(policy, &of_policy, merged, &of_merged);
        self.whole += divergence(policy, &of_policy, base, &of_base);
        let (mut apart, mut spread) = (0.0, 0.0);
        for (p, m) in policy.iter().zip(merged) {
            let (p, m) = (f64::from(*p), f64::from(*m));
            let far = (p - m).abs();
            // A NaN must not pass for a small difference.
            self.furthest = if far > self.furthest || far.is_nan() { far } else { self.furthest };
            self.largest = self.largest.max(p.abs());
            apart += (p - of_policy.mean - m + of_merged.mean).powi(2);
            spread += (p - of_policy.mean).powi(2);
        }
        self.difference += apart / policy.len().max(1) as f64;
        self.spread += spread / policy.len().max(1) as f64;
    }

    /// Adds a text of the policy's likeliest tokens: where the base would first choose another token, does the merged
    /// model? The text's logits begin at row `start`.
    fn add_text(&mut self, tokens: &[u32], start: usize, base: &Tensor, merged: &Tensor) {
        self.texts += 1;
        let other = |(i, token): (usize, &u32)| likeliest(base.row(start + i)) != *token as usize;
        let Some(fork) = tokens.iter().enumerate().position(other) else { return };
        self.changed += 1;
        let at = start + fork;
        self.fallen_back += usize::from(likeliest(merged.row(at)) == likeliest(base.row(at)));
    }
}

fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best
}

/// What is known of a row of logits.
struct Row {
    mean: f64,
    /// Log of the sum of their exponentials.
    lse: f64,
}

impl Row {
    fn new(logits: &[f32]) -> Self {
        let max = logits.iter().fold(f64::NEG_INFINITY, |most, x| most.max(f64::from(*x)));
        let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
        let mean = logits.iter().map(|x| f64::from(*x)).sum::<f64>() / logits.len().max(1) as f64;
        Self { mean, lse: max + sum.ln() }
    }
}

/// KL(softmax(p) ‖ softmax(q)), nats.
fn divergence(p: &[f32], of_p: &Row, q: &[f32], of_q: &Row) -> f64 {
    let terms = p.iter().zip(q).map(|(p, q)| {
        let (p, q) = (f64::from(*p) - of_p.lse, f64::from(*q) - of_q.lse);
        p.exp() * (p - q)
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a model that adds `share` of what the adapter adds to the base's logits, and `noise` of something else.
    fn measured(share: f32, noise: f32) -> Effect {
        let mut effect = Effect::default();
        let wave = |i: usize, at: usize, phase: f32| ((i * 7 + at * 13) as f32 * 0.61 + phase).sin();
        for at in 0..400 {
            let base: Vec<f32> = (0..50).map(|i| 2.0 * wave(i, at, 0.0)).collect();
            let add = |part: f32, other: f32| -> Vec<f32> {
                let moved = |(i, x): (usize, &f32)| {
                    x + part * wave(3 * i, at, 1.0) + other * wave(5 * i + 1, 3 * at, 2.0)
                };
                base.iter().enumerate().map(moved).collect()
            };
            effect.add_position(&add(0.5, 0.0), &base, &add(0.5 * share, noise), at % 50);
        }
        effect
    }

    #[test]
    fn the_share_is_1_for_a_perfect_merge_and_0_for_the_base() {
        let perfect = measured(1.0, 0.0);
        assert!((perfect.share().unwrap() - 1.0).abs() < 1e-12);
        assert!(perfect.lost().abs() < 1e-12 && perfect.whole() > 1e-2);
        assert!(perfect.furthest == 0.0 && perfect.difference() < 1e-12);
        let base = measured(0.0, 0.0);
        assert_eq!(base.share(), Some(0.0));
        assert!((base.lost() / base.whole() - 1.0).abs() < 1e-12);
        let half = measured(0.5, 0.0);
        assert!((half.share().unwrap() - 0.5).abs() < 0.05, "{:?}", half.share());
    }

    #[test]
    fn noise_shows_in_the_divergence_and_not_in_the_share() {
        let noisy = measured(1.0, 0.25);
        assert!((noisy.share().unwrap() - 1.0).abs() < 4.0 * noisy.share_error(), "{noisy:?}");
        assert!(noisy.share_error() > 0.005 && noisy.share_error() < 0.1, "{}", noisy.share_error());
        assert!(noisy.lost() > 0.05 * noisy.whole());
    }

    #[test]
    fn an_adapter_that_does_nothing_has_no_share() {
        let mut effect = Effect::default();
        effect.add_position(&[1.0, 2.0], &[1.0, 2.0], &[1.0, 2.5], 0);
        assert_eq!((effect.share(), effect.share_error()), (None, 0.0));
    }

    #[test]
    fn a_text_falls_back_where_the_merged_model_goes_the_bases_way() {
        // The first row belongs to another text.
        let rows = |tokens: &[usize]| {
            let row = |token: &usize| (0..4).map(|i| f32::from(u8::from(i == *token))).collect::<Vec<_>>();
            let all: Vec<f32> = std::iter::once(&0).chain(tokens).flat_map(row).collect();
            Tensor::new(all, (tokens.len() + 1, 4)).unwrap()
        };
        let mut effect = Effect::default();
        effect.add_text(&[1, 2, 3], 1, &rows(&[1, 2, 3]), &rows(&[0, 0, 0]));
        effect.add_text(&[1, 2, 3], 1, &rows(&[1, 0, 3]), &rows(&[1, 2, 0]));
        effect.add_text(&[1, 2, 3], 1, &rows(&[1, 0, 3]), &rows(&[1, 0, 3]));
        assert_eq!((effect.texts, effect.changed, effect.fallen_back), (3, 2, 1));
    }

    #[test]
    fn a_nan_is_no_small_difference() {
        let mut effect = Effect::default();
        effect.add_position(&[1.0, 2.0], &[1.0, 1.0], &[f32::NAN, 2.0], 1);
        effect.add_position(&[1.0, 2.0], &[1.0, 1.0], &[1.0, 2.0], 1);
        assert!(effect.furthest.is_nan());
    }
}
