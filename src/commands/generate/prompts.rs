//! The prompts of the command line or of a file.

use crate::cli::GenerateArgs;
use crate::error::{Error, Problems, Result};
use crate::generate::Request;
use crate::toolkit::{Adapted, prompts};

/// Prompts, and where each stands.
pub(super) struct Prompts {
    pub(super) texts: Vec<String>,
    /// `FILE:LINE`, or the option of the command line.
    places: Vec<String>,
}

impl Prompts {
    /// Returns the prompts of the command line or of a file.
    pub(super) fn read(args: &GenerateArgs) -> Result<Self> {
        let Some(path) = &args.prompts else {
            let place = |i: usize| match args.prompt.len() {
                1 => "--prompt".to_string(),
                _ => format!("--prompt number {}", i + 1),
            };
            let places = (0..args.prompt.len()).map(place).collect();
            return Ok(Self { texts: args.prompt.clone(), places });
        };
        let place = |(text, line): (String, usize)| (text, format!("{}:{line}", path.display()));
        let (texts, places) = prompts::texts(path)?.into_iter().map(place).unzip();
        Ok(Self { texts, places })
    }

    /// Refuses prompts that leave the model no position for an answer; all are named.
    ///
    /// # Errors
    /// If there are such prompts.
    pub(super) fn check(&self, requests: &[Request], adapted: &Adapted) -> Result<()> {
        let mut problems = Problems::default();
        for (place, request) in self.places.iter().zip(requests) {
            let tokens = request.prompt.len();
            if let Some(clause) = prompts::without_room(tokens, &adapted.decoder, &adapted.policy)? {
                problems.add(format!("{place}: the prompt has {clause}; shorten it"));
            }
        }
        problems.finish().map_err(|error| Error::Data(error.to_string()))
    }
}
