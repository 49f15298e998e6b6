//! Retries with growing waits.

use std::thread;

use super::http::{Client, Failure};
use super::progress::Progress;
use crate::error::Error;

/// Runs `attempt` until it succeeds, fails permanently, or has failed `attempts` times in a row without progress, which
/// `attempt` reports through its argument.
///
/// # Errors
/// The last failure; a temporary one keeps its kind.
pub(super) fn retry<T>(
    client: &Client,
    attempts: u32,
    progress: &dyn Progress,
    mut attempt: impl FnMut(&mut u64) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (mut failures, mut best) = (0, 0);
    loop {
        let mut reached = 0;
        match attempt(&mut reached) {
            Err(Failure::Passing(reason, asked)) => {
                if reached > best {
                    (failures, best) = (0, reached);
                }
                failures += 1;
                if failures >= attempts {
                    return Err(Failure::Passing(reason, asked));
                }
                let wait = client.wait(failures, asked);
                progress.note(&format!("{reason}; trying again in {:.1} s", wait.as_secs_f32()));
                thread::sleep(wait);
            }
            done => return done,
        }
    }
}

/// What a user can do about a failure that persists.
pub(super) fn give_up(failure: Failure, attempts: u32) -> Error {
    match failure {
        Failure::Final(error) => error,
        Failure::Passing(reason, _) => Error::Hub(format!(
            "{reason}; gave up at attempt {attempts} of {attempts}: check the connection and run it again (what was \
             received is kept), or set HF_HUB_OFFLINE=1 to use the cache alone"
        )),
    }
}
