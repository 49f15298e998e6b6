//! Threads that stay awake between the parallel parts of a step.
//!
//! A step of decoding has some two hundred parallel parts of a few microseconds, one of training some thousand of up to a
//! millisecond. A thread that finds nothing to do falls asleep, and waking it takes longer than many of them. Here it looks
//! for work until the step ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

use super::profile::Waiting;

/// How long the work waits for the other threads before it begins without them.
const PATIENCE: Duration = Duration::from_micros(200);

/// Rounds without work after which a thread lets other processes run.
const IDLE: usize = 64;

/// The threads that watch for work.
#[derive(Default)]
struct Watch {
    ready: AtomicUsize,
    begun: AtomicBool,
    done: AtomicBool,
}

/// Ends a watch, also when the work panics.
struct End(Arc<Watch>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Runs `work` on a thread of the pool. Its parallel parts find the other threads awake; the result does not depend on it.
pub fn awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return work();
    }
    if rayon::current_thread_index().is_none() {
        return rayon::scope(|_| among(threads, work));
    }
    among(threads, work)
}

fn among<T>(threads: usize, work: impl FnOnce() -> T) -> T {
    let watch = Arc::new(Watch::default());
    let _end = End(watch.clone());
    for _ in 1..threads {
        let watch = watch.clone();
        rayon::spawn(move || watch.keep());
    }
    let called = Instant::now();
    while watch.ready.load(Ordering::Acquire) + 1 < threads && called.elapsed() < PATIENCE {
        std::hint::spin_loop();
    }
    watch.begun.store(true, Ordering::Release);
    work()
}

impl Watch {
    /// Does what work there is until the end.
    ///
    /// A thread that comes after the beginning does not watch: below this on its stack may be a part of the work, which
    /// would never be finished. What is below it before the beginning does not belong to the work.
    fn keep(&self) {
        if self.begun.load(Ordering::Acquire) {
            return;
        }
        self.ready.fetch_add(1, Ordering::AcqRel);
        let (mut idle, mut waiting) = (0, Waiting::begin());
        while !self.done.load(Ordering::Acquire) {
            waiting.count();
            let worked = self.begun.load(Ordering::Acquire) && rayon::yield_now() == Some(Yield::Executed);
            if worked {
                waiting = Waiting::begin();
            }
            idle = if worked { 0 } else { idle + 1 };
            if idle > IDLE {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    fn threads() -> usize {
        rayon::current_num_threads()
    }

    fn sums(count: usize) -> usize {
        awake(|| (0..count).map(|n| (0..n).into_par_iter().map(|i| i * n).sum::<usize>()).sum())
    }

    #[test]
    fn the_work_is_done_with_any_number_of_threads_and_among_others() {
        let expected: usize = (0..200).map(|n| (0..n).map(|i| i * n).sum::<usize>()).sum();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for _ in 0..20 {
                assert_eq!(pool.install(|| sums(200)), expected);
            }
            // Several at once, and one inside another.
            let all: Vec<usize> = pool.install(|| (0..8).into_par_iter().map(|_| sums(200)).collect());
            assert_eq!(all, [expected; 8]);
            assert_eq!(pool.install(|| awake(|| sums(200))), expected);
        }
        assert_eq!(sums(200), expected);
    }

    #[test]
    fn a_panic_ends_it() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let work = || pool.install(|| awake(|| assert_eq!(threads(), 0, "of the work")));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        assert!(failed.is_err());
        assert_eq!(pool.install(|| awake(|| 7)), 7);
    }
}
