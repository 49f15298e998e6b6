//! Calls of a library that panics on some input: the panic becomes an error, and nothing of it reaches standard error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught here, so that there is nothing to tell of it.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives, `None` if it panics. `work` must leave nothing half-changed that is used afterwards.
///
/// The process' panic hook prints before anything unwinds, so a hook is put before it once, which is silent on a thread
/// that is in here and hands every other panic on (`tests/fuzz_corpus.rs` holds it to both).
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                before(info);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    let found = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    found.ok()
}
