//! Supervised fine-tuning: the mean negative log-likelihood per token.
//!
//! With N the number of tokens in all completions to imitate: `L = −Σ log π_θ / N`, `∂L/∂ log π_θ = −1/N`.
//!
//! The completions to imitate are texts, or the chosen completions of pairs. For texts, and when it is the only loss, N
//! counts the tokens of the whole step, as in TRL's `SFTTrainer`. When added to losses of pairs, N counts those of the
//! micro-batch, as in `DPOTrainer`; `train.max_tokens_per_batch` is then rejected because it would change the mean. A
//! label has no meaning where nothing is compared, so a soft label is rejected. The loss has no reward and needs no
//! reference; `DPOTrainer` still computes one for its metrics.

use serde::{Deserialize, Serialize};

use super::nll;
use super::scored::Scored;
use super::terms::{Batch, Needs, Records, Terms, Weighed, is_imitated};
use crate::error::{Problems, Result};

/// Imitates the text, or the chosen completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sft {}

impl Terms for Sft {
    fn needs(&self) -> Needs {
        Needs {
            reference: false,
            whole_batch: true,
            soft_labels: false,
            records: Records::Texts,
            ..Needs::PAIRS
        }
    }

    fn check(&self, _: &mut Problems) {}

    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()> {
        nll::add(batch, weight, batch.tokens_per_record, is_imitated, onto);
        Ok(())
    }

    fn reward(&self, _: &Scored) -> Option<f64> {
        None
    }
}
