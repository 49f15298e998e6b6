//! A Hub: its settings, its client, and the reporter of downloads.

use std::fmt;

use super::http::Client;
use super::progress::{Progress, Silent};
use super::settings::Settings;
use crate::error::Result;

/// A Hub and its cache.
pub struct Hub {
    pub(super) settings: Settings,
    pub(super) client: Client,
    pub(super) progress: Box<dyn Progress>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Hub {
    /// The Hub that the environment describes: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and
    /// `HF_HUB_OFFLINE`, as Python's `huggingface_hub` reads them.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] naming the invalid variable.
    pub fn from_env() -> Result<Self> {
        Self::new(Settings::from_env()?)
    }

    /// The Hub of `settings`.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if the endpoint is not a valid address.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self { client: Client::new(&settings)?, settings, progress: Box::new(Silent) })
    }

    /// Reports downloads to `progress`.
    #[must_use]
    pub fn with_progress(self, progress: impl Progress + 'static) -> Self {
        Self { progress: Box::new(progress), ..self }
    }
}
