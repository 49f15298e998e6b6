//! Advantages: what the completions of a prompt are worth against one another.

use super::group_relative::ScaleRewards;

/// What keeps a deviation of 0 from dividing, in TRL.
const SMALL: f64 = 1e-4;

/// GRPO (Shao et al. 2024, arXiv 2402.03300): a reward minus the mean of its group, divided by the deviation of the group or
/// of all rewards, or by nothing (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783). Groups of `size` are adjacent.
pub fn group_relative(rewards: &[f64], size: usize, scale: ScaleRewards) -> Vec<f64> {
    let of_all = deviation(rewards);
    let of_group = |group: &[f64]| {
        let (mean, own) = (mean(group), deviation(group));
        let divisor = match scale {
            ScaleRewards::Group => own + SMALL,
            ScaleRewards::Batch => of_all + SMALL,
            ScaleRewards::None => 1.0,
        };
        group.iter().map(|reward| (reward - mean) / divisor).collect::<Vec<_>>()
    };
    rewards.chunks(size.max(1)).flat_map(of_group).collect()
}

/// RLOO (Ahmadian et al. 2024, arXiv 2402.14740): a reward minus the mean of the others of its group.
pub fn leave_one_out(rewards: &[f64], size: usize, normalize: bool) -> Vec<f64> {
    let of_group = |group: &[f64]| {
        let (sum, others) = (group.iter().sum::<f64>(), group.len().saturating_sub(1).max(1) as f64);
        group.iter().map(|reward| reward - (sum - reward) / others).collect::<Vec<_>>()
    };
    let advantages: Vec<f64> = rewards.chunks(size.max(1)).flat_map(of_group).collect();
    if !normalize {
        return advantages;
    }
    let (mean, deviation) = (mean(&advantages), deviation(&advantages));
    advantages.iter().map(|advantage| (advantage - mean) / (deviation + SMALL)).collect()
}

/// Returns the mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Returns the standard deviation with Bessel's correction, as torch has it; 0 of less than two numbers.
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_those_of_the_formulas() {
        let rewards = [1.0, 3.0, 5.0, 2.0, 2.0, 2.0];
        let near = |found: &[f64], wanted: [f64; 6]| {
            assert!(found.iter().zip(wanted).all(|(x, y)| (x - y).abs() < 1e-9), "{found:?}");
        };
        // The deviation of 1, 3, 5 is 2; that of 2, 2, 2 is 0.
        let scaled = 2.0 / 2.0001;
        near(&group_relative(&rewards, 3, ScaleRewards::Group), [-scaled, 0.0, scaled, 0.0, 0.0, 0.0]);
        near(&group_relative(&rewards, 3, ScaleRewards::None), [-2.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
        // Σ (x − 2.5)² = 9.5, over 5.
        let all = 2.0 / (1.9f64.sqrt() + 1e-4);
        near(&group_relative(&rewards, 3, ScaleRewards::Batch), [-all, 0.0, all, 0.0, 0.0, 0.0]);
        near(&leave_one_out(&rewards, 3, false), [-3.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
        let normal = 3.0 / ((18.0f64 / 5.0).sqrt() + 1e-4);
        near(&leave_one_out(&rewards, 3, true), [-normal, 0.0, normal, 0.0, 0.0, 0.0]);
        assert_eq!((deviation(&[4.0]), mean(&[])), (0.0, 0.0));
    }
}
