//! Where the time goes: operations timed by name, with the arithmetic they did (`train --profile`).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

static ENABLED: AtomicBool = AtomicBool::new(false);
static TIMES: Mutex<BTreeMap<&'static str, Entry>> = Mutex::new(BTreeMap::new());

/// What one operation took, all calls together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// Calls.
    pub calls: u64,
    /// Seconds of wall-clock time.
    pub seconds: f64,
    /// Floating-point operations of its products (a multiply-add counts two); elementwise work is not counted.
    pub flop: f64,
}

/// Starts (or stops) timing.
pub fn enable(on: bool) {
    ENABLED.store(on, Ordering::Relaxed);
}

/// Runs `work` under a name. `flop` is the arithmetic of its products.
pub fn timed<T>(name: &'static str, flop: usize, work: impl FnOnce() -> T) -> T {
    if !ENABLED.load(Ordering::Relaxed) {
        return work();
    }
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    if let Ok(mut times) = TIMES.lock() {
        let entry = times.entry(name).or_default();
        entry.calls += 1;
        entry.seconds += seconds;
        entry.flop += flop as f64;
    }
    result
}

/// Takes what was timed so far, slowest first.
pub fn take() -> Vec<(&'static str, Entry)> {
    let times = TIMES.lock().map(|mut times| std::mem::take(&mut *times)).unwrap_or_default();
    let mut all: Vec<_> = times.into_iter().collect();
    all.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    all
}

/// A table of `entries` over `total` seconds: time, share, GFLOP/s.
pub fn table(entries: &[(&'static str, Entry)], total: f64) -> String {
    let mut text = format!(
        "{:28} {:>7} {:>9} {:>7} {:>9} {:>9}\n",
        "operation", "calls", "seconds", "share", "GFLOP", "GFLOP/s"
    );
    let mut line = |name: &str, entry: Entry| {
        let rate = if entry.seconds > 0.0 { 1e-9 * entry.flop / entry.seconds } else { 0.0 };
        text.push_str(&format!(
            "{name:28} {:7} {:9.3} {:6.1}% {:9.1} {rate:9.1}\n",
            entry.calls,
            entry.seconds,
            100.0 * entry.seconds / total.max(1e-9),
            1e-9 * entry.flop
        ));
    };
    let mut sum = Entry::default();
    for (name, entry) in entries {
        line(name, *entry);
        sum.seconds += entry.seconds;
        sum.flop += entry.flop;
    }
    line("the rest", Entry { seconds: total - sum.seconds, ..Entry::default() });
    line("all", Entry { seconds: total, flop: sum.flop, calls: 0 });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up() {
        let entries = [
            ("a", Entry { calls: 2, seconds: 1.0, flop: 4e9 }),
            ("b", Entry { calls: 1, seconds: 0.5, flop: 0.0 }),
        ];
        let text = table(&entries, 2.0);
        let rest = text.lines().find(|l| l.starts_with("the rest")).unwrap();
        let all = text.lines().find(|l| l.starts_with("all")).unwrap();
        assert!(
            rest.contains("0.500") && all.contains("2.000") && all.contains("2.0\n") | all.ends_with("2.0"),
            "{text}"
        );
    }
}
