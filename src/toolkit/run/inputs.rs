//! What a run reads before its model computes: settings, tokenizer, examples.

use super::super::{Base, dated};
use super::examples::Examples;
use crate::config::RunConfig;
use crate::data::ChatTokenizer;
use crate::error::Result;
use crate::train::trainer;

/// The settings and the data of a run.
pub struct Inputs {
    /// Its configuration, with what was decided for it.
    pub config: RunConfig,
    /// The tokenizer of its records.
    pub tokenizer: ChatTokenizer,
    /// Its examples.
    pub examples: Examples,
}

impl Inputs {
    /// Reads the data that the configuration names. With `resume`, a date that the template prints is that of the run.
    ///
    /// # Errors
    /// If something is missing or invalid.
    pub fn read(mut config: RunConfig, base: &Base, resume: bool) -> Result<Self> {
        config.model.base = base.pinned();
        let tokenizer = base.tokenizer(config.data.chat_template.as_deref())?;
        let tokenizer = dated::tokenizer(tokenizer, &mut config, resume)?;
        let examples = Examples::read(&config, base, &tokenizer)?;
        Ok(Self { config, tokenizer, examples })
    }

    /// Checks that the loss takes the examples.
    ///
    /// # Errors
    /// If it does not; the error names a record.
    pub fn check(&self) -> Result<()> {
        let needs = self.config.objective.resolve()?.needs();
        trainer::check_records(
            (&self.examples.train, &self.examples.eval),
            needs,
            self.config.drawing()?.is_some(),
        )
    }
}
