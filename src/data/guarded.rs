//! Calls into libraries that panic on some inputs: the panic becomes an error and prints nothing to standard error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic on this thread is being caught, so that the hook must not report it.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and returns its result, or `None` if it panics. `work` must not leave data that is used afterwards in an
/// inconsistent state.
///
/// The process' panic hook prints before unwinding starts. A wrapper hook is therefore installed once; it is silent on
/// threads inside this function and forwards every other panic (`tests/fuzz_corpus.rs` checks both).
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
