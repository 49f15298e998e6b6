//! An objective with its modifiers: whether its losses have what is modified, and its β in a step.

use std::borrow::Cow;

use serde_yaml::Value;

use super::config::{ObjectiveConfig, is_modified, name, parameters};
use super::modifiers::Modifiers;
use super::terms::Records;
use super::{Loss, Objective};
use crate::error::{Problems, Result};

impl Objective {
    /// Returns the objective of a step, at a share of the run from 0 to 1: with its β.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if that is no β; never for an objective that was checked.
    pub fn at(&self, progress: f64) -> Result<Cow<'_, Self>> {
        let of = |(loss, _): &(Loss, f64)| parameters(loss).get("beta").and_then(Value::as_f64);
        match self.losses.iter().find_map(of).and_then(|beta| self.modifiers.beta(beta, progress)) {
            Some(beta) => ObjectiveConfig::from(self).with("beta", beta).resolve().map(Cow::Owned),
            None => Ok(Cow::Borrowed(self)),
        }
    }

    /// Checks that the losses have what is to be modified.
    pub(super) fn check_modifiers(&self, problems: &mut Problems) {
        let Modifiers { ld_alpha, use_weighting, beta_end, .. } = self.modifiers;
        let which = |fits: &dyn Fn(&Loss) -> bool| {
            self.losses.iter().map(|(loss, _)| loss).find(|loss| !fits(loss)).map(name)
        };
        problems.require(ld_alpha.is_none_or(|alpha| (0.0..=1.0).contains(&alpha)), || {
            format!("objective.ld_alpha is {}; it must be in [0, 1]", ld_alpha.unwrap_or_default())
        });
        let imitates = |loss: &Loss| loss.needs().records == Records::Texts;
        if let (true, Some(loss)) = (ld_alpha.is_some(), which(&|loss| is_modified(loss) || imitates(loss))) {
            problems.add(format!(
                "objective.ld_alpha is set, and {loss} does not compare pairs with a reference"
            ));
        }
        problems.require(ld_alpha.is_none() || !self.losses.iter().all(|(loss, _)| imitates(loss)), || {
            "objective.ld_alpha is set, and nothing is compared".into()
        });
        // Losses that sort their pairs have no loss of a single pair.
        let weighted = |loss: &Loss| is_modified(loss) && !loss.needs().whole_batch;
        if let (true, Some(loss)) = (use_weighting, which(&weighted)) {
            problems.add(format!(
                "objective.use_weighting is true, and {loss} has no loss of a single pair with a reference; set it to false"
            ));
        }
        let has_beta = self.losses.iter().any(|(loss, _)| parameters(loss).contains_key("beta"));
        problems.require(beta_end.is_none() || has_beta, || {
            "objective.beta_end is set, and no loss has a beta; remove the line".into()
        });
        problems.require(beta_end.is_none_or(|beta| beta.is_finite() && beta > 0.0), || {
            let beta = beta_end.unwrap_or_default();
            format!("objective.beta_end is {beta}; it must be a finite number above 0, such as 0.05")
        });
    }
}
