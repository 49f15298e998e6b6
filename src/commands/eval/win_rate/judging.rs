//! Verdicts on the answers of two policies, by an endpoint or by a reward.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{JudgeSpec, WinRateArgs};
use crate::commands::eval::scored::say_kept;
use crate::error::Result;
use crate::eval::win_rate::by_reward;
use crate::judge::{Comparison, Judge, JudgeConfig, Position};
use crate::reward::{Reward, Sample, checked};
use crate::toolkit::drawn::Kept;
use crate::toolkit::prompts::Prompt;
use crate::toolkit::{Adapted, Base};

/// Who judges.
pub(super) enum Judging<'a> {
    Endpoint(Box<Endpoint>),
    Reward(Box<dyn Reward + 'a>),
}

/// An endpoint and its transcript.
pub(super) struct Endpoint {
    judge: Judge,
    name: String,
    transcript: PathBuf,
    /// Verdicts of earlier runs that were used.
    kept: usize,
}

/// The verdicts at one temperature.
pub(super) struct Verdicts {
    /// Of each prompt those of its comparisons, each how far the policy's answer is preferred; `None` where no answer of the
    /// judge could be read.
    pub(super) of_prompts: Vec<Vec<Option<f64>>>,
    /// Comparisons of equal texts, which are ties and are not judged.
    pub(super) equal: usize,
    /// What an endpoint prefers whatever the answers are.
    pub(super) position: Option<Position>,
    /// Requests in the transcript of an endpoint, and their cost.
    pub(super) spent: Option<(u64, f64)>,
}

impl<'a> Judging<'a> {
    /// The judge that the arguments ask for.
    ///
    /// # Errors
    /// As [`JudgeConfig::from_file`], [`Judge::new`] and [`Base::reward`].
    pub(super) fn of(args: &WinRateArgs, base: &Base, policy: &'a Adapted) -> Result<Self> {
        Ok(match &args.judge {
            JudgeSpec::Endpoint(path) => {
                let config = JudgeConfig::from_file(path)?;
                let name = format!("{} at {}", config.model, config.endpoint);
                let transcript = args.output.join("transcript.jsonl");
                let judge = Judge::new(config, &transcript)?;
                Self::Endpoint(Box::new(Endpoint { judge, name, transcript, kept: 0 }))
            }
            JudgeSpec::Reward(spec) => {
                let timeout = Duration::from_secs(args.results.reward_timeout);
                Self::Reward(base.reward(&policy.decoder, spec, timeout)?)
            }
        })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Endpoint(endpoint) => endpoint.name.clone(),
            Self::Reward(reward) => reward.name(),
        }
    }

    /// Says how many verdicts were not asked for, because an earlier run did.
    pub(super) fn say_kept(&self) {
        if let Self::Endpoint(endpoint) = self {
            say_kept(endpoint.kept, ("verdict", "ask"), &endpoint.transcript);
        }
    }

    /// Judges the answers of all prompts. Equal texts are a tie for every judge.
    ///
    /// # Errors
    /// As [`Judge::judge`] and [`checked`].
    pub(super) fn verdicts(
        &mut self,
        prompts: &[Prompt],
        ours: &[Vec<Kept>],
        theirs: &[Vec<Kept>],
    ) -> Result<Verdicts> {
        let pairs: Vec<Pair> = (0..prompts.len()).flat_map(|i| paired(i, &ours[i], &theirs[i])).collect();
        let open: Vec<&Pair> = pairs.iter().filter(|pair| !pair.is_equal()).collect();
        let (verdicts, position, spent) = match self {
            Self::Endpoint(endpoint) => {
                let comparisons: Vec<Comparison> =
                    open.iter().map(|pair| pair.comparison(&prompts[pair.prompt].text)).collect();
                let judged = endpoint.judge.judge(&comparisons)?;
                endpoint.kept += judged.from_transcript;
                let verdicts: Vec<Option<f64>> =
                    judged.verdicts.iter().map(|verdict| verdict.as_ref().map(|it| it.first)).collect();
                (verdicts, Some(judged.position), Some((judged.requests, judged.cost)))
            }
            Self::Reward(reward) => (by_rewards(&mut **reward, prompts, &open)?, None, None),
        };
        let mut verdicts = verdicts.into_iter();
        let mut of_prompts = vec![Vec::new(); prompts.len()];
        for pair in &pairs {
            let verdict = if pair.is_equal() { Some(0.5) } else { verdicts.next().flatten() };
            of_prompts[pair.prompt].push(verdict);
        }
        Ok(Verdicts {
            of_prompts,
            equal: pairs.len() - open.len(),
            position: position.filter(|position| position.pairs > 0),
            spent,
        })
    }
}

/// A comparison of two answers to a prompt.
struct Pair<'a> {
    prompt: usize,
    ours: &'a Kept,
    theirs: &'a Kept,
}

impl Pair<'_> {
    fn is_equal(&self) -> bool {
        self.ours.text.trim() == self.theirs.text.trim()
    }

    fn comparison(&self, prompt: &str) -> Comparison {
        Comparison { prompt: prompt.into(), answers: [self.ours.text.clone(), self.theirs.text.clone()] }
    }
}

/// Sample `i` of one side meets sample `i` of the other, from the start again where one side has fewer.
fn paired<'a>(prompt: usize, ours: &'a [Kept], theirs: &'a [Kept]) -> Vec<Pair<'a>> {
    let count = if theirs.is_empty() { 0 } else { ours.len().max(theirs.len()) };
    let pair = |(ours, theirs)| Pair { prompt, ours, theirs };
    ours.iter().cycle().zip(theirs.iter().cycle()).take(count).map(pair).collect()
}

/// The verdicts of a reward, which scores all answers together.
fn by_rewards(reward: &mut dyn Reward, prompts: &[Prompt], pairs: &[&Pair]) -> Result<Vec<Option<f64>>> {
    // A reward may be a program, which is not started for nothing.
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let samples: Vec<Sample> = pairs
        .iter()
        .flat_map(|pair| [pair.ours, pair.theirs].map(|kept| sample(&prompts[pair.prompt], kept)))
        .collect();
    let rewards = checked(reward, &samples)?;
    Ok(rewards.chunks_exact(2).map(|pair| Some(by_reward(pair[0], pair[1]))).collect())
}

/// An answer as a reward sees it.
fn sample<'a>(prompt: &'a Prompt, kept: &'a Kept) -> Sample<'a> {
    Sample {
        prompt: &prompt.text,
        completion: &kept.text,
        prompt_tokens: &prompt.tokens,
        tokens: &kept.tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reward that gives more each time, whatever it sees, and counts.
    struct Growing(f64);

    impl Reward for Growing {
        fn name(&self) -> String {
            "growing".into()
        }

        fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
            assert!(!samples.is_empty(), "it is asked for nothing");
            let mut next = || {
                self.0 += 1.0;
                self.0
            };
            Ok(samples.iter().map(|_| next()).collect())
        }
    }

    fn kept(text: &str) -> Kept {
        Kept { text: text.into(), tokens: vec![1, 2], logp: -1.0 }
    }

    #[test]
    fn equal_texts_are_a_tie_for_a_reward_too() {
        let prompts = ["p", "q"].map(|text| Prompt { text: text.into(), tokens: vec![1], chosen: None });
        let ours = [vec![kept("same"), kept("one")], vec![kept("blank ")]];
        let theirs = [vec![kept("same"), kept("other")], vec![kept("blank")]];
        let mut judging = Judging::Reward(Box::new(Growing(0.0)));
        let found = judging.verdicts(&prompts, &ours, &theirs).unwrap();
        // The second of two answers gets more.
        assert_eq!(found.of_prompts, [vec![Some(0.5), Some(0.0)], vec![Some(0.5)]]);
        assert_eq!((found.equal, found.spent), (2, None));
        // Without open comparisons nothing is scored.
        let found = judging.verdicts(&prompts, &ours, &ours).unwrap();
        assert_eq!((found.equal, found.of_prompts[0].clone()), (3, vec![Some(0.5); 2]));
    }
}
