//! Draws, scores and places policies.

use std::time::Duration;

use super::figures::Measured;
use crate::cli::FrontierArgs;
use crate::commands::eval::scored::Scorer;
use crate::commands::output::say;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Interval;
use crate::eval::frontier::{self, PerPrompt, Point};
use crate::generate::SamplingConfig;
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::toolkit::drawn::{Drawer, Drawing, Drawn, Kept};
use crate::toolkit::prompts::Prompt;
use crate::toolkit::{Adapted, Base, reward_identity};

/// What policies are measured with.
pub(super) struct Measuring<'a> {
    pub(super) args: &'a FrontierArgs,
    base: &'a Base,
    drawer: Drawer,
    scorer: Scorer,
}

impl<'a> Measuring<'a> {
    pub(super) fn open(ranks: &Ranks, args: &'a FrontierArgs, base: &'a Base) -> Result<Self> {
        Ok(Self {
            args,
            base,
            drawer: Drawer::open_on(ranks, &args.output.join("samples.jsonl"))?,
            scorer: Scorer::open(ranks, &args.output.join("scores.jsonl"))?,
        })
    }

    /// Says how many scores an earlier command has computed.
    pub(super) fn say_kept(&self) {
        self.scorer.say_kept();
    }

    /// Draws completions. Divergences are those of plain sampling: temperature 1, all tokens.
    pub(super) fn draw(
        &mut self,
        by: Drawn,
        prompts: &[Prompt],
        completions: usize,
    ) -> Result<Vec<Vec<Kept>>> {
        let seed = self.args.draw.seed;
        let sampling = SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed };
        let how = Drawing { sampling, completions, max_new_tokens: self.args.draw.max_new_tokens };
        self.drawer.draw(by, prompts, &how)
    }

    /// The rewards of completions.
    pub(super) fn rewards(
        &mut self,
        (adapted, spec): (&Adapted, &crate::reward::Spec),
        prompts: &[Prompt],
        drawn: &[Vec<Kept>],
    ) -> Result<Vec<Vec<f64>>> {
        let timeout = Duration::from_secs(self.args.results.reward_timeout);
        let mut reward = match self.scorer.computes() {
            true => Some((self.base.reward(&adapted.decoder, spec, timeout)?, reward_identity(spec)?)),
            false => None,
        };
        self.scorer.rewards(reward.as_mut(), prompts, drawn)
    }

    /// Draws, scores and places one policy.
    pub(super) fn policy(
        &mut self,
        (adapted, pass): (&Adapted, Pass),
        name: &str,
        series: &str,
        prompts: &[Prompt],
    ) -> Result<Measured> {
        let args = self.args;
        let shown = if series.is_empty() { name.to_string() } else { format!("{series}/{name}") };
        let by = Drawn { adapted, pass, name: &shown };
        let drawn = self.draw(by, prompts, args.draw.samples)?;
        let rewards = self.rewards((adapted, &args.reward), prompts, &drawn)?;
        let logps: Vec<Vec<f64>> = match pass {
            // The same policy: its own log-probs, so that the divergence is exactly 0.
            Pass::Reference => {
                drawn.iter().map(|of_prompt| of_prompt.iter().map(|kept| kept.logp).collect()).collect()
            }
            Pass::Policy => self.scorer.reference(adapted, prompts, &drawn)?,
        };
        let of_prompt = |((drawn, logps), rewards): ((&Vec<Kept>, &Vec<f64>), &Vec<f64>)| {
            let each = drawn.iter().zip(logps).zip(rewards);
            let one = |((kept, ref_logp), reward): ((&Kept, &f64), &f64)| frontier::Drawn {
                reward: *reward,
                logp: kept.logp,
                ref_logp: *ref_logp,
            };
            each.map(one).collect::<Vec<frontier::Drawn>>()
        };
        let samples: Vec<Vec<frontier::Drawn>> =
            drawn.iter().zip(&logps).zip(&rewards).map(of_prompt).collect();
        let point = Point::of(name, &samples, args.draw.seed)
            .ok_or_else(|| Error::Data(format!("{shown}: there are no samples")))?;
        say(&format!("{shown}: reward {:.4}, KL {:.3}", point.reward.mean, point.kl.mean));
        let point = match pass {
            // By definition, not by these samples.
            Pass::Reference => Point { kl: Interval::exact(0.0), kl_k3: Some(Interval::exact(0.0)), ..point },
            Pass::Policy => point,
        };
        let point = Point { series: series.into(), ..point };
        Ok(Measured { point, means: PerPrompt::of(&samples), kl_bound: None })
    }
}
