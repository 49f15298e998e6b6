//! SIGINT and SIGTERM: the first lets the step finish and a checkpoint be written, the second stops at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::error::{Error, Result};
use crate::files;

/// Sets `stop` to the exit code of the signal that asks the run to stop.
///
/// # Errors
/// If the handlers cannot be installed.
pub(super) fn watch(stop: &Arc<AtomicU8>) -> Result<()> {
    #[cfg(unix)]
    for (signal, code) in [(signal_hook::consts::SIGINT, 130u8), (signal_hook::consts::SIGTERM, 143)] {
        let asked = Arc::new(AtomicBool::new(false));
        let failed = |e: std::io::Error| Error::Train(format!("a signal handler cannot be installed: {e}"));
        // Order matters: the second signal finds the flag set and ends the process before it is set again.
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(code), asked.clone())
            .map_err(failed)?;
        signal_hook::flag::register(signal, asked).map_err(failed)?;
        let stop = stop.clone();
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { signal_hook::low_level::register(signal, move || stop.store(code, Ordering::Relaxed)) }
            .map_err(failed)?;
    }
    #[cfg(not(unix))]
    let _ = (
        stop,
        AtomicBool::new(false),
        Ordering::Relaxed,
        Error::Train(String::new()),
        Arc::new(AtomicU8::new(0)),
    );
    Ok(())
}

/// From now on SIGINT and SIGTERM end the process at once and remove its temporary files.
///
/// # Errors
/// If the handlers cannot be installed.
pub(super) fn leave_nothing_behind() -> Result<()> {
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let failed = |e: std::io::Error| Error::Config(format!("a signal handler cannot be installed: {e}"));
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                files::remove_temporaries();
                super::output::say("interrupted; nothing was written");
                signal_hook::low_level::exit(128 + signal);
            }
        });
    }
    Ok(())
}
