//! The progress of work that takes a while: a bar on a terminal, a line now and then elsewhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::screen::{self, Bar};

/// Work that is done before this shows no bar.
const PATIENCE: Duration = Duration::from_millis(400);
/// Time between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

static WANTED: AtomicBool = AtomicBool::new(false);

/// From now on activities are shown. A program that uses the library shows none unless it asks for them.
pub fn show_activities() {
    WANTED.store(true, Ordering::Relaxed);
}

/// From now on activities are not shown.
pub fn hide_activities() {
    WANTED.store(false, Ordering::Relaxed);
}

/// Work on `total` things, shown until it is dropped.
pub struct Activity {
    what: String,
    total: u64,
    done: AtomicU64,
    since: Instant,
    bar: OnceLock<Bar>,
    pace: Mutex<Pace>,
}

impl Activity {
    /// Work that is described by a verb, such as `scoring pairs`.
    pub fn new(what: impl Into<String>, total: u64) -> Self {
        let since = Instant::now();
        let pace = Mutex::new(Pace { next: BETWEEN_LINES });
        Self { what: what.into(), total, done: AtomicU64::new(0), since, bar: OnceLock::new(), pace }
    }

    /// So many more are done.
    pub fn advance(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        let elapsed = self.since.elapsed();
        if !WANTED.load(Ordering::Relaxed) || elapsed < PATIENCE {
            return;
        }
        if screen::is_terminal() {
            self.bar.get_or_init(|| self.drawn()).counters().set_position(done);
        } else if let Ok(Some(line)) =
            self.pace.lock().map(|mut pace| pace.line(&self.what, (done, self.total), elapsed))
        {
            // Nothing can be reported where standard error is closed.
            let _ = screen::line(&line);
        }
    }

    fn drawn(&self) -> Bar {
        let colour = if screen::is_coloured() { ".cyan/black" } else { "" };
        let bar = Bar::new(
            self.total,
            &format!("{{msg}} {{bar:20{colour}}} {{pos}}/{{len}}  {{elapsed}} < {{eta}}"),
        );
        bar.counters().set_message(self.what.clone());
        bar.counters().set_elapsed(self.since.elapsed());
        bar
    }
}

/// When the next line is due.
struct Pace {
    next: Duration,
}

impl Pace {
    /// The line that is due after this time, if any.
    fn line(&mut self, what: &str, (done, total): (u64, u64), elapsed: Duration) -> Option<String> {
        if elapsed < self.next || done == 0 || done >= total {
            return None;
        }
        self.next = elapsed + BETWEEN_LINES;
        let left = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
        Some(format!("{what}: {done} of {total}, about {left:.0} s left"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_every_half_minute_and_none_at_the_end() {
        let mut pace = Pace { next: BETWEEN_LINES };
        let mut at = |seconds, done| pace.line("scoring", (done, 100), Duration::from_secs(seconds));
        assert_eq!(at(29, 20), None);
        assert_eq!(at(30, 25), Some("scoring: 25 of 100, about 90 s left".into()));
        assert_eq!(at(45, 40), None);
        assert_eq!(at(60, 60), Some("scoring: 60 of 100, about 40 s left".into()));
        assert_eq!(at(120, 100), None);
        assert_eq!(at(150, 0), None);
    }

    #[test]
    fn nothing_is_shown_that_nobody_asked_for() {
        let activity = Activity::new("scoring", 3);
        activity.advance(3);
        assert!(activity.bar.get().is_none());
    }
}
