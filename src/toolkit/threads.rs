//! The threads of the whole process.

use crate::error::{Error, Result};

/// Sets the number of threads for all later work (all cores if none is given). The calling thread is one of them: no
/// operation waits for another thread to start it.
///
/// # Errors
/// If a number was given and the threads exist already.
pub fn set_threads(threads: Option<usize>) -> Result<()> {
    let built =
        rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).use_current_thread().build_global();
    match (threads, built) {
        (Some(threads), Err(e)) => Err(Error::Config(format!("--threads {threads}: {e}"))),
        _ => Ok(()),
    }
}

/// The threads of all work of this process.
pub fn current_threads() -> usize {
    rayon::current_num_threads()
}

/// Does `work` with so many threads of its own.
///
/// # Errors
/// Those of `work`, or if the threads cannot be started.
pub fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::Config(format!("{threads} threads cannot be started: {e}")))?.install(work)
}
