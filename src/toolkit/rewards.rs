//! Rewards that a spec names, also those that need the base.

use std::path::Path;
use std::time::Duration;

use super::{Base, TrainedWith};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::reward::{LogRatio, Reward, Spec};
use crate::trainable::Policy;

impl Base {
    /// The reward of a spec. An adapter's is computed by `decoder`, which must be this base; a command may take `timeout`
    /// for a call.
    ///
    /// # Errors
    /// As [`Spec::plain`]; or if the adapter cannot be read or belongs to another base.
    pub fn reward<'a>(
        &self,
        decoder: &'a Decoder,
        spec: &Spec,
        timeout: Duration,
    ) -> Result<Box<dyn Reward + 'a>> {
        let Spec::Adapter(directory) = spec else { return spec.plain(timeout) };
        let policy = Policy::of(self.adapter(Path::new(directory), false)?);
        let objective = TrainedWith::of(Path::new(directory))?.objective.unwrap_or_default();
        Ok(Box::new(LogRatio::new(decoder, policy, objective, spec.to_string())))
    }
}
