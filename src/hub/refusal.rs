//! What an unsuccessful status means, and what to do about it.

use chrono::Utc;

use super::cache::Repository;
use super::http::{Answer, Client, Failure};
use crate::http::retry_after;

impl Client {
    /// The error of an unsuccessful status for `what` of `repository`.
    pub(super) fn refusal(&self, answer: &Answer, repository: &Repository, what: &str) -> Failure {
        let id = &repository.id;
        let page = self.url(&repository.page());
        let code = answer.header("x-error-code").unwrap_or_default();
        let status = answer.status();
        let said = answer.header("x-error-message").map(|m| format!(" ({})", clip(m))).unwrap_or_default();
        let log_in = if self.token.is_some() {
            "the token that is set may not read it; set HF_TOKEN to one that may"
        } else {
            "no token is set; if it is private, set HF_TOKEN or run `hf auth login`"
        };
        match (status, code) {
            (_, "GatedRepo") => Failure::hub(format!(
                "{id} is gated{said}: accept its terms at {page} and set HF_TOKEN to a token of that account"
            )),
            (404, "EntryNotFound") => Failure::hub(format!("{id} has no {what}")),
            (404, "RevisionNotFound") => Failure::hub(format!(
                "{id}: there is no revision `{}`; {page} names its branches and tags",
                id.revision()
            )),
            (401, _) => Failure::hub(format!("{id} does not exist or may not be read{said}: {log_in}")),
            (403, _) => Failure::hub(format!("{id} may not be read{said}: {log_in}")),
            (404, _) => Failure::hub(format!(
                "{id}: there is no {what} at {page}{said}; mind the spelling, and {log_in}"
            )),
            (408 | 425 | 429 | 500..=599, _) => {
                let wait =
                    answer.header("retry-after").and_then(|header| retry_after::pause(header, Utc::now()));
                Failure::Passing(format!("{page} answers {status}{said}"), wait)
            }
            _ => Failure::hub(format!("{page} answers {status} to the request for {what}{said}")),
        }
    }
}

/// The text of a server's answer, shortened to one line.
fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
