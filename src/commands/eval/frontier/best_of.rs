//! Best-of-N of the reference as points of the plane.

use super::figures::{Measured, REFERENCE};
use super::measuring::Measuring;
use crate::cli::FrontierArgs;
use crate::commands::output::say;
use crate::error::{Error, Result};
use crate::eval::frontier::{PerPrompt, Point};
use crate::model::pass::Pass;
use crate::reward::{Spec, best_of, kl_bound};
use crate::toolkit::Adapted;
use crate::toolkit::drawn::Drawn;
use crate::toolkit::prompts::Prompt;

/// Samples of a prompt for each of the greatest N: enough for the divergence, which is from their distribution.
const SAMPLES: usize = 4;

/// Which N, and by which rewards the best is chosen.
pub(super) struct BestOf<'a> {
    sizes: &'a [usize],
    by: Vec<&'a Spec>,
}

impl<'a> BestOf<'a> {
    /// What the arguments ask for, if anything.
    pub(super) fn of(args: &'a FrontierArgs) -> Option<Self> {
        let by: Vec<&Spec> = match args.best_of_by.is_empty() {
            true => vec![&args.reward],
            false => args.best_of_by.iter().collect(),
        };
        (!args.best_of.is_empty()).then_some(Self { sizes: &args.best_of, by })
    }

    /// Draws from the reference and places every N.
    pub(super) fn measure(
        &self,
        measuring: &mut Measuring,
        adapted: &Adapted,
        prompts: &[Prompt],
    ) -> Result<Vec<Measured>> {
        let args = measuring.args;
        let count = SAMPLES * self.sizes.iter().copied().max().unwrap_or(1);
        let by = Drawn { adapted, pass: Pass::Reference, name: REFERENCE };
        let drawn = measuring.draw(by, prompts, count)?;
        let values = measuring.rewards((adapted, &args.reward), prompts, &drawn)?;
        let mut found = Vec::new();
        for spec in &self.by {
            let scores = measuring.rewards((adapted, spec), prompts, &drawn)?;
            let series = match self.by.len() {
                1 => "best of N".to_string(),
                _ => format!("best of N by {}", shown(spec)),
            };
            for size in self.sizes {
                let placed: Option<Vec<(f64, f64)>> = scores
                    .iter()
                    .zip(&values)
                    .map(|(scores, values)| best_of(scores, values, *size))
                    .collect();
                let (rewards, kls) = placed.unwrap_or_default().into_iter().unzip();
                let means = PerPrompt { rewards, kls };
                let name = format!("best of {size}");
                let point = Point::of_means(name, &means, count * prompts.len(), args.draw.seed)
                    .ok_or_else(|| Error::Data("there are no prompts".into()))?;
                say(&format!(
                    "{series}, N = {size}: reward {:.4}, KL {:.3}",
                    point.reward.mean, point.kl.mean
                ));
                let point = Point { series: series.clone(), ..point };
                found.push(Measured { point, means, kl_bound: Some(kl_bound(*size)) });
            }
        }
        Ok(found)
    }
}

/// A reward by its shortest name: `adapter:runs/reward` is `reward`.
fn shown(spec: &Spec) -> String {
    match spec {
        Spec::Adapter(directory) => directory.rsplit('/').next().unwrap_or(directory).to_string(),
        Spec::Length | Spec::Regex(_) | Spec::Command(_) | Spec::TinyReviews => spec.to_string(),
    }
}
