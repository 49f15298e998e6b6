//! Online DPO: the best and the worst completion of each prompt are a pair (Guo et al. 2024, arXiv 2402.04792; TRL 1.16's
//! `OnlineDPOTrainer`, which draws two).

use super::Rewarded;
use crate::data::{Example, Kind};

/// Returns a pair for each prompt: its first best completion, and the last of the worst ones. Two completions of equal
/// reward are a pair in the order in which they were drawn, as in TRL.
pub fn pairs(drawn: &Rewarded, size: usize) -> Vec<Example> {
    let completions = drawn.generation.completions.chunks(size.max(1));
    let groups = completions.zip(drawn.rewards.chunks(size.max(1))).zip(&drawn.generation.prompts);
    groups
        .map(|((completions, rewards), prompt)| {
            let (mut best, mut worst) = (0, rewards.len().saturating_sub(1));
            for (i, reward) in rewards.iter().enumerate() {
                best = if *reward > rewards[best] { i } else { best };
            }
            for (i, reward) in rewards.iter().enumerate().rev() {
                worst = if *reward < rewards[worst] { i } else { worst };
            }
            let chosen = [best, worst].map(|i| completions[i].drawn());
            Example { completions: chosen.to_vec(), kind: Kind::PAIR, ..prompt.clone() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Origin;
    use crate::generate::{Completion, FinishReason};
    use crate::rollout::Generation;

    #[test]
    fn the_best_and_the_worst_are_a_pair() {
        let prompt = || Example {
            prompt: vec![1],
            completions: Vec::new(),
            kind: Kind::Prompt,
            origin: Origin::new("t", 1),
        };
        let completion = |(i, token): (usize, u32)| Completion {
            prompt: i / 3,
            index: i % 3,
            text: String::new(),
            tokens: vec![token],
            end: Some(0),
            logps: vec![-1.0; 2],
            sampling_logps: vec![-1.0; 2],
            finish_reason: FinishReason::Stop,
        };
        let completions = (10..16).enumerate().map(completion).collect();
        let generation = Generation { prompts: vec![prompt(), prompt()], completions };
        let drawn = Rewarded { generation, rewards: vec![0.5, 2.0, -1.0, 3.0, 3.0, 3.0] };
        let found = pairs(&drawn, 3);
        assert_eq!(found[0].completions, [vec![11, 0], vec![12, 0]]);
        assert_eq!(found[1].completions, [vec![13, 0], vec![15, 0]]);
        assert_eq!((found[0].kind, drawn.mean_reward()), (Kind::PAIR, 10.5 / 6.0));
    }
}
