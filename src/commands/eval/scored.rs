//! Rewards and reference log-probs of completions, which are computed once and kept.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::commands::output::say;
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
    path: PathBuf,
    /// Hashes of what this command has computed, or has taken from the file: it is counted once.
    seen: BTreeSet<[u8; 32]>,
    /// Rewards of an earlier command that were used.
    kept: usize,
}

impl Scorer {
    /// Opens or creates the file of numbers.
    ///
    /// # Errors
    /// As [`Memo::open`].
    pub(super) fn open(ranks: &Ranks, path: &Path) -> Result<Self> {
        let memo = ranks.is_first().then(|| Memo::open(path)).transpose()?;
        let (path, seen) = (path.to_path_buf(), BTreeSet::new());
        Ok(Self { memo, ranks: ranks.clone(), path, seen, kept: 0 })
    }

    /// Says how many rewards were not computed, because an earlier command did: a reward may depend on more than is known here.
    pub(super) fn say_kept(&self) {
        say_kept(self.kept, ("score", "score"), &self.path);
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
        let what = (what.as_str(), identity.as_str());
        let (found, kept) = self.of(what, prompts, drawn, |prompts, drawn| {
            let pairs = prompts.iter().zip(drawn);
            let samples: Vec<Sample> =
                pairs.flat_map(|(prompt, of_prompt)| sampled(prompt, of_prompt)).collect();
            let mut rewards = checked(&mut **reward, &samples)?.into_iter();
            Ok(drawn.iter().map(|of_prompt| rewards.by_ref().take(of_prompt.len()).collect()).collect())
        })?;
        self.kept += kept;
        Ok(found)
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
        let compute = |prompts: &[Prompt], drawn: &[Vec<Kept>]| logps_of_reference(adapted, prompts, drawn);
        Ok(self.of(what, prompts, drawn, compute)?.0)
    }

    /// The numbers of all completions, and how many of them an earlier command has computed, counted when they are first met.
    fn of(
        &mut self,
        (what, identity): (&str, &str),
        prompts: &[Prompt],
        drawn: &[Vec<Kept>],
        mut compute: impl FnMut(&[Prompt], &[Vec<Kept>]) -> Result<Vec<Vec<f64>>>,
    ) -> Result<(Vec<Vec<f64>>, usize)> {
        let most = drawn.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let together = TOGETHER.div_ceil(most);
        let activity = Activity::new(what, prompts.len() as u64);
        let Self { memo, ranks, seen, .. } = self;
        let mut kept = 0;
        let found = ranks.told(|| {
            let mut found = Vec::with_capacity(prompts.len());
            for (prompts, drawn) in prompts.chunks(together).zip(drawn.chunks(together)) {
                let described = described(identity, prompts, drawn);
                let hash = *blake3::hash(described.as_bytes()).as_bytes();
                let is_known = memo.as_ref().is_some_and(|memo| memo.knows(&described));
                if seen.insert(hash) && is_known {
                    kept += drawn.iter().map(Vec::len).sum::<usize>();
                }
                found.extend(match memo {
                    Some(memo) => memo.of(&described, || compute(prompts, drawn))?,
                    None => compute(prompts, drawn)?,
                });
                activity.advance(prompts.len() as u64);
            }
            Ok(found)
        })?;
        Ok((found, kept))
    }
}

/// Says how many results of earlier commands were taken from a file, if any were. `what` is the name of one, and `again` what
/// is done anew without the file.
pub(super) fn say_kept(count: usize, (what, again): (&str, &str), path: &Path) {
    if let Some(line) = kept_line(count, (what, again), path) {
        say(&line);
    }
}

fn kept_line(count: usize, (what, again): (&str, &str), path: &Path) -> Option<String> {
    let were = if count == 1 { " was" } else { "s were" };
    let line = || format!("{count} {what}{were} kept in {}; delete it to {again} again", path.display());
    (count > 0).then(line)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::ALONE;

    /// Gives this number to everything.
    struct Constant(f64);

    impl Reward for Constant {
        fn name(&self) -> String {
            "constant".into()
        }

        fn rewards(&mut self, samples: &[Sample]) -> Result<Vec<f64>> {
            Ok(vec![self.0; samples.len()])
        }
    }

    #[test]
    fn scores_of_an_earlier_command_are_counted() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("scores.jsonl");
        let prompts = [Prompt { text: "p".into(), tokens: vec![1], chosen: None }];
        let kept = |text: &str| Kept { text: text.into(), tokens: vec![2], logp: -1.0 };
        let drawn = [vec![kept("a"), kept("b")]];
        let score = |scorer: &mut Scorer, value: f64| {
            let mut reward: (Box<dyn Reward>, String) = (Box::new(Constant(value)), "constant".into());
            scorer.rewards(Some(&mut reward), &prompts, &drawn).unwrap()
        };
        let mut scorer = Scorer::open(&ALONE, &path).unwrap();
        // The second time they come from this command.
        assert_eq!(
            (score(&mut scorer, 1.0), score(&mut scorer, 2.0)),
            (vec![vec![1.0; 2]], vec![vec![1.0; 2]])
        );
        assert_eq!(scorer.kept, 0);
        drop(scorer);
        let mut scorer = Scorer::open(&ALONE, &path).unwrap();
        assert_eq!((score(&mut scorer, 3.0), scorer.kept), (vec![vec![1.0; 2]], 2));
        // At another temperature the same completions are the same scores.
        assert_eq!((score(&mut scorer, 3.0), scorer.kept), (vec![vec![1.0; 2]], 2));
    }

    #[test]
    fn what_is_kept_is_said_in_one_line() {
        let line = |count| kept_line(count, ("score", "score"), Path::new("f/scores.jsonl"));
        assert_eq!(line(0), None);
        assert_eq!(line(1).unwrap(), "1 score was kept in f/scores.jsonl; delete it to score again");
        assert_eq!(line(124).unwrap(), "124 scores were kept in f/scores.jsonl; delete it to score again");
    }
}
