//! What the main thread of a rank and its thread have in common.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What ends a process whose main thread does not notice that a rank has failed.
pub type OnFailure = Box<dyn FnOnce(&str) + Send>;

#[derive(Default)]
pub(super) struct State {
    /// Topic and bytes of what has arrived, by sender.
    pub(super) inbox: Vec<VecDeque<(u8, Vec<u8>)>>,
    pub(super) failure: Option<String>,
    /// Where each rank runs, once it is known.
    pub(super) places: Vec<String>,
    pub(super) on_failure: Option<OnFailure>,
}

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) arrived: Condvar,
    /// Milliseconds without a sign of life after which a rank is given up.
    pub(super) patience: AtomicU64,
    /// Nanoseconds that the main thread has waited for others.
    pub(super) waited: AtomicU64,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }

    /// Names a rank and where it runs.
    pub(super) fn named(&self, rank: usize) -> String {
        let state = self.state();
        match state.places.get(rank) {
            Some(place) => format!("rank {rank} of {} ({place})", state.inbox.len()),
            None => format!("rank {rank} of {}", state.inbox.len()),
        }
    }

    /// Records the first failure; returns whether this is it.
    pub(super) fn fail(&self, message: &str) -> bool {
        let mut state = self.state();
        let first = state.failure.is_none();
        state.failure.get_or_insert_with(|| message.to_string());
        drop(state);
        self.arrived.notify_all();
        first
    }
}
