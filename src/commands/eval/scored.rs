//! Rewards and reference log-probs of completions, which are computed once and kept.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::Memo;
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::report::Activity;
use crate::reward::{Reward, Sample, checked};
use crate::toolkit::Adapted;
use crate::toolkit::drawn::{Drawn, Kept, identity, logps_of_reference};
use crate::toolkit::prompts::Prompt;

/// Completions that are scored together: a command is started once for them, and this much is lost where a run is stopped.
const TOGETHER: usize = 512;

/// Numbers of completions, one for each, in a file.
pub(super) struct Scorer {
    /// Of rank 0, which computes; the other ranks are told.
    memo: Option<Memo<Vec<Vec<f64>>>>,
    ranks: Ranks,
}

impl Scorer {
    /// Opens or creates the file of numbers.
    ///
    /// # Errors
    /// As [`Memo::open`].
    pub(super) fn open(ranks: &Ranks, path: &Path) -> Result<Self> {
        let memo = ranks.is_first().then(|| Memo::open(path)).transpose()?;
        Ok(Self { memo, ranks: ranks.clone() })
    }

    /// Whether this rank computes, and needs the reward.
    pub(super) fn computes(&self) -> bool {
        self.ranks.is_first()
    }

    /// The reward of each completion of each prompt. A text beside the reward says what it is; ranks that do not compute need none.
    ///
    /// # Errors
    /// As [`checked`], or if the file cannot be written.
    pub(super) fn rewards(
        &mut self,
        reward: Option<&mut (Box<dyn Reward + '_>, String)>,
        prompts: &[Prompt],
        drawn: &[Vec<Kept>],
    ) -> Result<Vec<Vec<f64>>> {
        let Some((reward, identity)) = reward else {
            return self.ranks.told(|| Err(Error::Ranks("rank 0 has no reward".into())));
        };
        let what = format!("scoring completions by {}", reward.name());
        self.of((what.as_str(), identity.as_str()), prompts, drawn, |prompts, drawn| {
            let pairs = prompts.iter().zip(drawn);
            let samples: Vec<Sample> =
                pairs.flat_map(|(prompt, of_prompt)| sampled(prompt, of_prompt)).collect();
            let mut rewards = checked(&mut **reward, &samples)?.into_iter();
            Ok(drawn.iter().map(|of_prompt| rewards.by_ref().take(of_prompt.len()).collect()).collect())
        })
    }

    /// The log-prob of each completion under the reference.
    ///
    /// # Errors
    /// As [`logps_of_reference`], or if the file cannot be written.
    pub(super) fn reference(
        &mut self,
        adapted: &Adapted,
        prompts: &[Prompt],
        drawn: &[Vec<Kept>],
    ) -> Result<Vec<Vec<f64>>> {
        let identity = identity(Drawn { adapted, pass: Pass::Reference, name: "" })?;
        let what = ("scoring completions by the reference", identity.as_str());
        self.of(what, prompts, drawn, |prompts, drawn| logps_of_reference(adapted, prompts, drawn))
    }

    fn of(
        &mut self,
        (what, identity): (&str, &str),
        prompts: &[Prompt],
        drawn: &[Vec<Kept>],
        mut compute: impl FnMut(&[Prompt], &[Vec<Kept>]) -> Result<Vec<Vec<f64>>>,
    ) -> Result<Vec<Vec<f64>>> {
        let most = drawn.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let together = TOGETHER.div_ceil(most);
        let activity = Activity::new(what, prompts.len() as u64);
        let Self { memo, ranks } = self;
        ranks.told(|| {
            let mut found = Vec::with_capacity(prompts.len());
            for (prompts, drawn) in prompts.chunks(together).zip(drawn.chunks(together)) {
                let described = described(identity, prompts, drawn);
                found.extend(match memo {
                    Some(memo) => memo.of(&described, || compute(prompts, drawn))?,
                    None => compute(prompts, drawn)?,
                });
                activity.advance(prompts.len() as u64);
            }
            Ok(found)
        })
    }
}

/// The completions of a prompt as a reward sees them.
fn sampled<'a>(prompt: &'a Prompt, drawn: &'a [Kept]) -> impl Iterator<Item = Sample<'a>> {
    drawn.iter().map(|kept| Sample {
        prompt: &prompt.text,
        completion: &kept.text,
        prompt_tokens: &prompt.tokens,
        tokens: &kept.tokens,
    })
}

/// All that numbers depend on: who gives them, and for what.
fn described(identity: &str, prompts: &[Prompt], drawn: &[Vec<Kept>]) -> String {
    let texts = |drawn: &Vec<Kept>| {
        drawn.iter().map(|it| format!("{:?} {:?}", it.text, it.tokens)).collect::<Vec<_>>()
    };
    let each = prompts.iter().zip(drawn);
    let parts: Vec<String> =
        each.map(|(prompt, drawn)| format!("{:?} {:?}", prompt.tokens, texts(drawn))).collect();
    format!("{identity} {}", parts.join("\n"))
}
