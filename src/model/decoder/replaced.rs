//! The tables that adapters replace, kept from one pass to the next.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::ops::frozen_linear::Linear;

/// Replaced tables by module and by the versions of the adapters in them.
#[derive(Default)]
pub(super) struct Tables(Mutex<Vec<Table>>);

/// The module, the versions, and the table.
type Table = (String, Vec<u64>, Arc<Linear>);

/// Tables that are kept for one module: those of the policy and of a reference that has its own.
const MOST_TABLES: usize = 2;

impl Tables {
    /// The table of a module with these versions, which `make` makes if it is not there.
    ///
    /// # Errors
    /// The errors of `make`.
    pub(super) fn of(
        &self,
        module: &str,
        versions: Vec<u64>,
        make: impl FnOnce() -> Result<Linear>,
    ) -> Result<Arc<Linear>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |(name, of, _): &&Table| name == module && *of == versions;
        if let Some((.., table)) = lock().iter().find(is) {
            return Ok(table.clone());
        }
        // Old ones go first, so that there are never more than two at once.
        let mut all = lock();
        while all.iter().filter(|(name, ..)| name == module).count() >= MOST_TABLES {
            let oldest = all.iter().position(|(name, ..)| name == module);
            oldest.into_iter().for_each(|at| drop(all.remove(at)));
        }
        let table = Arc::new(make()?);
        all.push((module.to_string(), versions, table.clone()));
        Ok(table)
    }
}
