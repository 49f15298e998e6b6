//! The report of `data check`.

use serde::Serialize;

use crate::data::check::{Figures, Leaks, TokensOfData};

/// All that is printed.
#[derive(Serialize)]
pub(super) struct Report {
    pub train: Figures,
    /// Of separate evaluation data.
    pub eval: Option<Figures>,
    /// What of the evaluation data, or of the share that will be held out, is in the training data.
    pub leaks: Option<Leaks>,
    /// Tokens of an epoch, with a base.
    pub tokens: Option<TokensOfData>,
    /// Bytes that a run takes at its peak on the CPU, with a base.
    pub peak_memory: Option<usize>,
    /// What keeps a run from starting.
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}
