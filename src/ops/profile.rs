//! Profiling: times operations by name and counts their arithmetic (`train --profile`).
//!
//! A multiply-add counts as two operations. A linear map counts `2·T·in·out` forward and the same backward (no weight
//! gradient). Its low-rank path counts `2·T·r·(in + out)` forward and twice that backward. Attention counts only the
//! visible pairs of queries and keys, `2·head_dim` per pair, head and product, with two products forward and five
//! backward. The head counts `2·S·hidden·vocab` at the S scored tokens, twice on the policy pass. Elementwise work is
//! not counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::gemm::{Elements, Isa, Operand, Precision, gemm};

static ENABLED: AtomicBool = AtomicBool::new(false);
static IN_STEP: AtomicBool = AtomicBool::new(false);
static TIMES: Mutex<BTreeMap<&'static str, Entry>> = Mutex::new(BTreeMap::new());

/// The cost of one operation, summed over all calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// Number of calls.
    pub calls: u64,
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// Processor time of all threads in seconds, without that of threads that waited awake; zero if the system does not tell.
    pub processor: f64,
    /// Floating-point operations of its products (a multiply-add counts as two); elementwise work is not counted.
    pub flop: f64,
}

/// Seconds and processor seconds of all steps.
static STEPS: Mutex<(f64, f64)> = Mutex::new((0.0, 0.0));

/// Processor time in nanoseconds that threads have spent waiting for work.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// Returns the processor time that all threads of this process have worked, in seconds, or zero if the system does not
/// tell.
fn processor() -> f64 {
    #[cfg(unix)]
    {
        let now = nanoseconds(rustix::time::ClockId::ProcessCPUTime);
        1e-9 * now.saturating_sub(WAITED.load(Ordering::Relaxed)) as f64
    }
    #[cfg(not(unix))]
    0.0
}

#[cfg(unix)]
fn nanoseconds(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The time that a thread waits for work without sleeping. It is no work.
pub(super) struct Waiting {
    since: Option<u64>,
}

impl Waiting {
    /// Begins to wait.
    pub(super) fn begin() -> Self {
        Self { since: Self::now() }
    }

    /// Counts the time until now, and goes on waiting.
    pub(super) fn count(&mut self) {
        let now = Self::now();
        if let (Some(since), Some(now)) = (self.since, now) {
            WAITED.fetch_add(now.saturating_sub(since), Ordering::Relaxed);
        }
        self.since = now;
    }

    /// The thread's own time, in a step that is profiled.
    fn now() -> Option<u64> {
        #[cfg(unix)]
        return IN_STEP.load(Ordering::Relaxed).then(|| nanoseconds(rustix::time::ClockId::ThreadCPUTime));
        #[cfg(not(unix))]
        None
    }
}

/// Enables or disables timing and clears the recorded times.
pub fn enable(on: bool) {
    ENABLED.store(on, Ordering::Relaxed);
    restart();
}

/// Clears the recorded times.
pub fn restart() {
    drop(take());
    if let Ok(mut steps) = STEPS.lock() {
        *steps = (0.0, 0.0);
    }
}

/// Whether timing is enabled.
pub fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Total seconds of all [`step`]s so far.
pub fn seconds() -> f64 {
    STEPS.lock().map_or(0.0, |steps| steps.0)
}

/// Wall-clock and processor time of all [`step`]s so far.
pub fn total() -> Entry {
    let (seconds, processor) = STEPS.lock().map_or((0.0, 0.0), |steps| *steps);
    Entry { seconds, processor, ..Entry::default() }
}

/// Runs `work`, a training step. Operations are timed only inside steps, not in evaluations or while files are written.
pub fn step<T>(work: impl FnOnce() -> T) -> T {
    if !ENABLED.load(Ordering::Relaxed) {
        return work();
    }
    let (start, before) = (Instant::now(), processor());
    IN_STEP.store(true, Ordering::Relaxed);
    let result = work();
    IN_STEP.store(false, Ordering::Relaxed);
    if let Ok(mut steps) = STEPS.lock() {
        steps.0 += start.elapsed().as_secs_f64();
        steps.1 += processor() - before;
    }
    result
}

/// Returns the best rate of this machine's matrix product at a favourable size, in GFLOP/s; shares of peak refer to it.
pub fn peak(precision: Precision) -> f64 {
    const SIZE: (usize, usize, usize) = (960, 2048, 2048);
    let (m, n, k) = SIZE;
    let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
    let (a, b) = (Operand::by_row(Elements::F32(&a), m, k), Operand::by_row(Elements::F32(&b), n, k));
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_secs(2) {
        let once = Instant::now();
        std::hint::black_box(gemm(&a, &b, precision));
        best = best.min(once.elapsed().as_secs_f64());
    }
    2e-9 * (m * n * k) as f64 / best
}

/// Runs `work` under a name. `flop` is the number of operations of its products.
pub fn timed<T>(name: &'static str, flop: usize, work: impl FnOnce() -> T) -> T {
    if !IN_STEP.load(Ordering::Relaxed) {
        return work();
    }
    let (start, before) = (Instant::now(), processor());
    let result = work();
    let (seconds, processor) = (start.elapsed().as_secs_f64(), processor() - before);
    if let Ok(mut times) = TIMES.lock() {
        let entry = times.entry(name).or_default();
        entry.calls += 1;
        entry.seconds += seconds;
        entry.processor += processor;
        entry.flop += flop as f64;
    }
    result
}

/// Takes the recorded entries, slowest first.
pub fn take() -> Vec<(&'static str, Entry)> {
    let times = TIMES.lock().map(|mut times| std::mem::take(&mut *times)).unwrap_or_default();
    let mut all: Vec<_> = times.into_iter().collect();
    all.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    all
}

/// Formats `entries` as a table over the steps' `total`: time, share of the total, processor time by time (how many
/// cores were busy), GFLOP/s and share of `peak`.
pub fn table(entries: &[(&'static str, Entry)], total: Entry, peak: f64) -> String {
    let mut text = format!(
        "{:28} {:>7} {:>9} {:>7} {:>6} {:>9} {:>9} {:>8}\n",
        "operation", "calls", "seconds", "share", "cores", "GFLOP", "GFLOP/s", "of peak"
    );
    let mut line = |name: &str, entry: Entry| {
        let by_time = |x: f64| if entry.seconds > 0.0 { x / entry.seconds } else { 0.0 };
        let rate = by_time(1e-9 * entry.flop);
        text.push_str(&format!(
            "{name:28} {:7} {:9.3} {:6.1}% {:6.2} {:9.1} {rate:9.1} {:7.1}%\n",
            entry.calls,
            entry.seconds,
            100.0 * entry.seconds / total.seconds.max(1e-9),
            by_time(entry.processor),
            1e-9 * entry.flop,
            100.0 * rate / peak.max(1e-9),
        ));
    };
    let mut sum = Entry::default();
    for (name, entry) in entries {
        line(name, *entry);
        sum.seconds += entry.seconds;
        sum.processor += entry.processor;
        sum.flop += entry.flop;
    }
    let rest = Entry {
        seconds: total.seconds - sum.seconds,
        processor: total.processor - sum.processor,
        ..Entry::default()
    };
    line("the rest", rest);
    line("all", Entry { flop: sum.flop, ..total });
    text.push_str(&format!(
        "peak: this machine's best matrix product in this storage type, {peak:.0} GFLOP/s\n{}kernels: {}\n",
        serial_share(total, rayon::current_num_threads()).map_or(String::new(), |share| format!(
            "serial share: {:.1} % of a step on one thread, if no other program takes the cores\n",
            100.0 * share
        )),
        Isa::detected().description()
    ));
    text
}

/// Returns the share of the work on one thread that only one thread does, by Amdahl's law: with `s` of it, `threads`
/// keep `threads / (1 + (threads − 1)·s)` cores busy. `None` if it cannot be told.
fn serial_share(total: Entry, threads: usize) -> Option<f64> {
    if threads < 2 || total.processor <= 0.0 {
        return None;
    }
    let threads = threads as f64;
    Some(((threads * total.seconds / total.processor - 1.0) / (threads - 1.0)).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up() {
        let entries = [
            ("a", Entry { calls: 2, seconds: 1.0, processor: 2.0, flop: 4e9 }),
            ("b", Entry { calls: 1, seconds: 0.5, processor: 0.5, flop: 0.0 }),
        ];
        let total = Entry { seconds: 2.0, processor: 3.0, ..Entry::default() };
        let text = table(&entries, total, 8.0);
        let numbers = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().map(String::from).collect()
        };
        assert_eq!(numbers("a "), ["2", "1.000", "50.0%", "2.00", "4.0", "4.0", "50.0%"]);
        assert_eq!(numbers("the rest"), ["0", "0.500", "25.0%", "1.00", "0.0", "0.0", "0.0%"]);
        assert_eq!(numbers("all"), ["0", "2.000", "100.0%", "1.50", "4.0", "2.0", "25.0%"]);
        // One and a half of two cores were busy: 1/(s + (1 − s)/2) = 1.5.
        assert!((serial_share(total, 2).unwrap() - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(serial_share(total, 1), None);
    }

    #[test]
    fn only_steps_are_timed_and_a_restart_forgets_them() {
        enable(true);
        timed("outside", 1, || ());
        step(|| timed("inside", 1, || std::thread::sleep(Duration::from_millis(2))));
        let (total, entries) = (seconds(), take());
        assert!(entries.iter().all(|(name, _)| *name != "outside"));
        let inside = entries.iter().find(|(name, _)| *name == "inside").unwrap().1;
        assert!(inside.calls == 1 && 0.002 <= inside.seconds && inside.seconds <= total);
        restart();
        assert_eq!(seconds(), 0.0);
        #[cfg(unix)]
        step(waiting_is_no_work);
        enable(false);
    }

    /// In a step that is timed.
    #[cfg(unix)]
    fn waiting_is_no_work() {
        let own = || nanoseconds(rustix::time::ClockId::ThreadCPUTime);
        let (before, begun, start) = (WAITED.load(Ordering::Relaxed), own(), Instant::now());
        let mut waiting = Waiting::begin();
        while start.elapsed() < Duration::from_millis(20) {
            waiting.count();
        }
        // Threads of other tests may wait, too.
        let (waited, spent) = (WAITED.load(Ordering::Relaxed) - before, own() - begun);
        assert!(waited > spent / 2, "{waited} of {spent} nanoseconds");
    }
}
