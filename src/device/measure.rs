//! A device that computes nothing and counts launches, bytes, arithmetic and memory of a step before it is run.

use std::sync::{Mutex, PoisonError};

use super::profile::{self, Entry};
use super::{Address, Backend, Description, Launch, Product};
use crate::error::Result;

/// Assumptions of a prediction: bytes per second of a GPU's memory, operations per second of its matrix units, and seconds
/// per launch of a kernel (an H100, measured by `tests/device/run.sh`).
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Bytes per second.
    pub bytes: f64,
    /// Operations per second.
    pub flop: f64,
    /// Seconds per launch.
    pub launch: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self { bytes: 2.5e12, flop: 700e12, launch: 4.2e-6 }
    }
}

/// A counter that takes the place of a device.
#[derive(Default)]
pub struct Measure {
    rates: Rates,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The next address; none of them is ever read.
    next: u64,
    allocated: Vec<(u64, usize)>,
    entries: Vec<Entry>,
}

impl Measure {
    /// A counter that predicts times by `rates`.
    pub fn new(rates: Rates) -> Self {
        Self { rates, ..Self::default() }
    }

    /// Bytes allocated at present.
    pub fn allocated(&self) -> usize {
        self.state().allocated.iter().map(|(_, bytes)| bytes).sum()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kernel takes the longest of the times for its memory, its arithmetic and its launch.
    fn count(&self, name: &str, bytes: usize, flop: usize) {
        let seconds =
            (bytes as f64 / self.rates.bytes).max(flop as f64 / self.rates.flop).max(self.rates.launch);
        profile::add(&mut self.state().entries, name, seconds, bytes, flop);
    }
}

impl Backend for Measure {
    fn describe(&self) -> Description {
        Description { name: "plan".into(), ..Description::default() }
    }

    fn computes(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let mut state = self.state();
        state.next += 1 << 40;
        let at = state.next;
        state.allocated.push((at, bytes));
        Ok(Address(at))
    }

    fn free(&self, at: Address) {
        self.state().allocated.retain(|(start, _)| *start != at.0);
    }

    fn upload(&self, _to: Address, _pitch: usize, _bytes: &[u8], _row: usize) -> Result<()> {
        Ok(())
    }

    fn download(&self, _from: Address, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn zero(&self, _at: Address, _pitch: usize, row: usize, rows: usize) -> Result<()> {
        self.count("fill", row * rows, 0);
        Ok(())
    }

    fn copy(
        &self,
        _to: Address,
        _from: Address,
        _pitches: [usize; 2],
        row: usize,
        rows: usize,
    ) -> Result<()> {
        self.count("copy", 2 * row * rows, 0);
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        launch.check()?;
        self.count(launch.name, launch.bytes, launch.flop);
        Ok(())
    }

    fn product(&self, product: &Product) -> Result<()> {
        let thin = product.shape.iter().min().is_some_and(|size| *size <= 64);
        let name = if thin { "product, low rank" } else { "product" };
        self.count(name, product.bytes(), product.flop());
        Ok(())
    }

    fn synchronise(&self) -> Result<()> {
        Ok(())
    }

    fn profile(&self, on: bool) {
        if on {
            self.state().entries.clear();
        }
    }

    fn times(&self) -> Result<Vec<Entry>> {
        Ok(self.state().entries.clone())
    }
}
