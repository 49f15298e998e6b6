//! How fast requests may follow each other, and how many there may be.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::config::JudgeConfig;

/// The longest sleep at once, so that a run that failed elsewhere ends soon.
const NAP: Duration = Duration::from_millis(50);

/// Spaces the requests of all threads.
pub(super) struct Pace {
    between: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(config: &JudgeConfig) -> Self {
        let between = config.requests_per_minute.map_or(0.0, |rate| 60.0 / rate);
        Self { between: Duration::from_secs_f64(between), next: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of the next request; returns whether it came, or `stopped` became true first.
    pub fn wait(&self, stopped: impl Fn() -> bool) -> bool {
        let turn = {
            let mut next = held(&self.next);
            let turn = (*next).max(Instant::now());
            *next = turn + self.between;
            turn
        };
        sleep_until(turn, stopped)
    }

    /// Nobody sends anything for this long: the server asked for it.
    pub fn hold(&self, pause: Duration) {
        let mut next = held(&self.next);
        *next = (*next).max(Instant::now() + pause);
    }
}

/// Sleeps until `turn`; returns false if `stopped` became true before.
pub(super) fn sleep_until(turn: Instant, stopped: impl Fn() -> bool) -> bool {
    loop {
        if stopped() {
            return false;
        }
        let left = turn.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(NAP));
    }
}

/// What was spent, and what may be.
pub(super) struct Budget {
    max_cost: Option<f64>,
    max_requests: Option<u64>,
    spent: Mutex<Spent>,
}

/// Requests and their cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    /// Requests that were answered, or given up.
    pub requests: u64,
    /// Their cost.
    pub cost: f64,
    /// Requests under way.
    under_way: u64,
    /// What they may cost.
    reserved: f64,
}

impl Budget {
    /// A budget of which this was spent by earlier runs.
    pub fn new(config: &JudgeConfig, requests: u64, cost: f64) -> Self {
        let spent = Mutex::new(Spent { requests, cost, ..Spent::default() });
        Self { max_cost: config.max_cost, max_requests: config.max_requests, spent }
    }

    /// Sets aside what a request may cost.
    ///
    /// # Errors
    /// The limit that the request would pass, in words.
    pub fn reserve(&self, cost: f64) -> Result<(), String> {
        let mut spent = held(&self.spent);
        if let Some(most) = self.max_requests.filter(|most| spent.requests + spent.under_way >= *most) {
            return Err(format!("max_requests {most} is reached"));
        }
        let with = spent.cost + spent.reserved + cost;
        if let Some(most) = self.max_cost.filter(|most| with > *most) {
            return Err(format!(
                "max_cost {most} is reached: {:.4} is spent, and the next request may cost {cost:.4}",
                spent.cost
            ));
        }
        spent.under_way += 1;
        spent.reserved += cost;
        Ok(())
    }

    /// Replaces what was set aside by what the request cost.
    pub fn settle(&self, reserved: f64, cost: f64) {
        let mut spent = held(&self.spent);
        spent.under_way = spent.under_way.saturating_sub(1);
        spent.requests += 1;
        // Nothing under way, nothing reserved: rounding errors do not add up.
        spent.reserved = if spent.under_way == 0 { 0.0 } else { (spent.reserved - reserved).max(0.0) };
        spent.cost += cost;
    }

    pub fn spent(&self) -> Spent {
        *held(&self.spent)
    }
}

/// Every change is made while the lock is held, so what a thread left is whole.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spaced() {
        let config = JudgeConfig { requests_per_minute: Some(1200.0), ..JudgeConfig::new("http://h", "m") };
        let (pace, began) = (Pace::new(&config), Instant::now());
        (0..4).for_each(|_| assert!(pace.wait(|| false)));
        assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
        pace.hold(Duration::from_secs(3600));
        assert!(!pace.wait(|| true));
    }

    #[test]
    fn a_budget_counts_what_is_under_way() {
        let limited =
            JudgeConfig { max_cost: Some(1.0), max_requests: Some(4), ..JudgeConfig::new("http://h", "m") };
        let budget = Budget::new(&limited, 1, 0.3);
        budget.reserve(0.4).unwrap();
        assert!(budget.reserve(0.4).unwrap_err().contains("max_cost 1 is reached"));
        budget.settle(0.4, 0.1);
        budget.reserve(0.4).unwrap();
        budget.settle(0.4, 0.0);
        budget.reserve(0.1).unwrap();
        assert!(budget.reserve(0.0).unwrap_err().contains("max_requests 4"));
        assert_eq!(budget.spent().requests, 3);
        assert!((budget.spent().cost - 0.4).abs() < 1e-12);
    }
}
