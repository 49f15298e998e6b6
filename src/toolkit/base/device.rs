//! Where a base computes.

use std::sync::Arc;

use crate::device::Backend;
use crate::device::cuda::{self, Cuda};
use crate::error::{Error, Result};
use crate::model::config::DeviceChoice;
use crate::ranks;

/// The card of the process with this number among those of its machine. Processes share cards if there are fewer; a launcher that
/// shows each process its own card shows one.
fn card_of(local: usize, cards: usize) -> usize {
    local.checked_rem(cards).unwrap_or(0)
}

/// Opens the chosen device; `None` is the processor. Of several processes on a machine each takes its own card by default.
///
/// # Errors
/// If the named device cannot be used.
pub(super) fn open(choice: DeviceChoice) -> Result<Option<Arc<dyn Backend>>> {
    let card = |ordinal| Ok::<Arc<dyn Backend>, Error>(Arc::new(Cuda::open(ordinal)?));
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda(ordinal) => card(ordinal).map(Some),
        DeviceChoice::Auto if !cuda::has_driver() => Ok(None),
        DeviceChoice::Auto => {
            match card(card_of(ranks::local_rank(|name| std::env::var(name).ok()), cuda::count())) {
                Ok(device) => Ok(Some(device)),
                Err(error) => {
                    log::warn!(
                        "{error}. The CPU is used instead; --device cpu selects it without this warning"
                    );
                    Ok(None)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_of_a_machine_takes_its_own_card() {
        let cards = |ranks: usize, cards| (0..ranks).map(|local| card_of(local, cards)).collect::<Vec<_>>();
        assert_eq!(cards(4, 4), [0, 1, 2, 3]);
        assert_eq!(cards(2, 8), [0, 1]);
        // The launcher shows each its own, or there are too few.
        assert_eq!(cards(4, 1), [0, 0, 0, 0]);
        assert_eq!(cards(5, 2), [0, 1, 0, 1, 0]);
        assert_eq!(cards(2, 0), [0, 0]);
    }
}
