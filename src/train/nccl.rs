//! Connects the cards of several ranks by NCCL, if that is asked for.

use std::path::Path;
use std::sync::Arc;

use crate::device::Backend;
use crate::device::linked::{Library, Linked};
use crate::error::Result;
use crate::ranks::Ranks;

/// The environment variable that asks for NCCL: `1` for the one that is installed, or the path of its library.
pub const VARIABLE: &str = "DPO_LORA_NCCL";

/// Connects the cards of all ranks. Returns why they are not connected if NCCL was asked for on any of them; without it,
/// gradients pass through the memory of the hosts. `asked` is the value of [`VARIABLE`].
///
/// # Errors
/// If a rank has failed, or NCCL fails.
pub fn linked(
    ranks: &Ranks,
    device: Option<&Arc<dyn Backend>>,
    asked: Option<&str>,
) -> Result<(Option<Linked>, Option<String>)> {
    let (Some(device), false) = (device, ranks.is_alone()) else { return Ok((None, None)) };
    let opened = match asked.map(str::trim) {
        None | Some("" | "0") => None,
        Some("1") => Some(Library::open(None)),
        Some(path) => Some(Library::open(Some(Path::new(path)))),
    };
    // The version that each has, nothing if it was not asked for, or why it has none.
    let (found, said) = match opened {
        None => (None, (0, String::new())),
        Some(Ok(library)) => {
            let version = library.version();
            (Some(library), (1, version))
        }
        Some(Err(why)) => (None, (2, why)),
    };
    let mut own = vec![said.0];
    own.extend(said.1.into_bytes());
    let all = ranks.gather(own)?;
    if all.iter().all(|own| own.first() == Some(&0)) {
        return Ok((None, None));
    }
    let differs = all
        .iter()
        .position(|own| own.first() != Some(&1))
        .or_else(|| all.iter().position(|own| *own != all[0]));
    let (None, Some(library)) = (differs, found) else {
        let rank = differs.unwrap_or(0);
        let said = String::from_utf8_lossy(all[rank].get(1..).unwrap_or_default()).into_owned();
        let why = match all[rank].first() {
            Some(1) => format!("has version {said}, and rank 0 another"),
            Some(2) => format!("cannot open it ({said})"),
            _ => format!("was started without {VARIABLE}"),
        };
        return Ok((
            None,
            Some(format!(
                "{} {why}: gradients pass through the memory of the hosts, not by NCCL",
                ranks.named(rank)
            )),
        ));
    };
    let name = ranks.broadcast(if ranks.is_first() { library.group()? } else { Vec::new() })?;
    Ok((Some(Linked::join(library, device, &name, (ranks.rank(), ranks.size()))?), None))
}
