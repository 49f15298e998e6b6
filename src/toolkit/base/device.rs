//! Where a base computes.

use std::sync::Arc;

use crate::device::Backend;
use crate::device::cuda::{self, Cuda};
use crate::error::{Error, Result};
use crate::model::config::DeviceChoice;

/// Opens the chosen device; `None` is the processor.
///
/// # Errors
/// If the named device cannot be used.
pub(super) fn open(choice: DeviceChoice) -> Result<Option<Arc<dyn Backend>>> {
    let card = |ordinal| Ok::<Arc<dyn Backend>, Error>(Arc::new(Cuda::open(ordinal)?));
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda(ordinal) => card(ordinal).map(Some),
        DeviceChoice::Auto if !cuda::has_driver() => Ok(None),
        DeviceChoice::Auto => match card(0) {
            Ok(device) => Ok(Some(device)),
            Err(error) => {
                log::warn!("{error}. The CPU is used instead; --device cpu selects it without this warning");
                Ok(None)
            }
        },
    }
}
