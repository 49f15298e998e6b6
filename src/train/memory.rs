//! Checks whether a run fits into memory before anything is allocated, and says what it takes.

use super::plan::Memory;
use crate::error::{Error, Result};

/// The expected size is an estimate: a run that exceeds the available memory by less than this factor is tried, with a
/// warning.
const MARGIN: f64 = 1.25;

/// Returns the bytes that a new process may use without swapping: the lesser of `MemAvailable` plus `SwapFree` in
/// `/proc/meminfo` and what the control group (version 2) has left. Returns `None` if neither can be read.
pub fn available() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = meminfo.as_deref().and_then(machine_available);
    [machine, group_available()].into_iter().flatten().min()
}

fn machine_available(meminfo: &str) -> Option<usize> {
    Some(field(meminfo, "MemAvailable")?.saturating_add(field(meminfo, "SwapFree").unwrap_or(0)))
}

/// The bytes of a field of a file of `/proc` that counts kB.
fn field(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The resident memory of this process in GB, under the names of the log: now, and at its peak. Mapped weights that were
/// read count, a GPU's memory does not. Empty where the system has no `/proc/self/status`.
pub fn in_use() -> Vec<(&'static str, f64)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let figures = [("memory_gb", "VmRSS"), ("peak_memory_gb", "VmHWM")];
    figures.into_iter().filter_map(|(name, key)| Some((name, field(&status, key)? as f64 / 1e9))).collect()
}

fn group_available() -> Option<usize> {
    let read = |name: &str| -> Option<usize> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    // `max` does not parse as a number and means no limit.
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

/// The memory that a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes that the machine has left for all of its ranks.
    pub available: usize,
    /// How many ranks share them.
    pub ranks: usize,
}

/// Compares a run's needs with the available memory and returns a warning if it is close. `converted` is the size in
/// bytes of the weights that are not a mapped file.
///
/// # Errors
/// [`Error::Config`] if it will not fit. Mapped weights do not count: the system can drop their pages and read them
/// again. Ranks share them, and nothing else.
pub fn check(memory: &Memory, converted: usize, room: Room) -> Result<Option<String>> {
    let Room { available, ranks } = Room { ranks: room.ranks.max(1), ..room };
    let mapped = memory.weights.saturating_sub(converted);
    let own = memory.beside(mapped);
    let gb = |bytes: usize| bytes as f64 / 1e9;
    let needs = format!(
        "{} about {:.1} GB of memory (adapter, gradient and moments {:.1}, activations {:.1}, buffers {:.1}, \
         tokenizer {:.1}, converted weights {:.1}) beside {:.1} GB of mapped weights; {:.1} GB are available{}",
        if ranks > 1 { "this rank needs" } else { "the run needs" },
        gb(own),
        gb(memory.adapter),
        gb(memory.activations),
        gb(memory.working),
        gb(memory.tokenizer()),
        gb(converted),
        gb(mapped),
        gb(available),
        if ranks > 1 { format!(" to the {ranks} ranks of this machine together") } else { String::new() }
    );
    let fewer = if ranks > 1 { ", or start fewer ranks on this machine" } else { "" };
    let remedy = format!("{}{fewer}", remedy(memory, converted));
    let of_all = own.saturating_mul(ranks);
    if of_all as f64 > MARGIN * available as f64 {
        return Err(Error::Config(format!("{needs}. {remedy}")));
    }
    if of_all.saturating_add(mapped) > available {
        return Ok(Some(format!("{needs}; it may be slow or be killed by the system. {remedy}")));
    }
    Ok(None)
}

/// Returns the remedy that would help most.
fn remedy(memory: &Memory, converted: usize) -> &'static str {
    let largest = memory.adapter.max(memory.activations).max(memory.working).max(converted);
    if largest == memory.adapter {
        "Lower lora.r (16 is usual), or name fewer lora.target_modules"
    } else if largest == converted {
        "Leave model.dtype at auto"
    } else {
        "Set train.gradient_checkpointing: true, or lower train.per_device_train_batch_size, train.max_tokens_per_batch \
         or data.max_length"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(adapter: usize, activations: usize) -> Memory {
        Memory { weights: 4_000_000_000, activations, working: 0, adapter, strings: 0 }
    }

    fn alone(available: usize) -> Room {
        Room { available, ranks: 1 }
    }

    #[test]
    fn ranks_share_mapped_weights_and_nothing_else() {
        let room = |available| Room { available, ranks: 4 };
        // 4 GB of weights once, and 1.05 GB of each rank.
        assert_eq!(check(&memory(10_000_000, 1_000_000_000), 0, room(8_500_000_000)).unwrap(), None);
        let told = check(&memory(10_000_000, 1_000_000_000), 0, room(8_000_000_000)).unwrap().unwrap();
        assert!(
            told.contains("this rank needs about 1.1 GB")
                && told.contains("8.0 GB are available to the 4 ranks"),
            "{told}"
        );
        let error =
            check(&memory(10_000_000, 1_000_000_000), 0, room(3_000_000_000)).unwrap_err().to_string();
        assert!(error.ends_with("or start fewer ranks on this machine"), "{error}");
    }

    #[test]
    fn what_cannot_fit_is_refused_by_what_is_largest() {
        let free = 8_000_000_000;
        let error = check(&memory(90_000_000_000, 1_000_000_000), 0, alone(free)).unwrap_err();
        let text = error.to_string();
        assert!(
            error.exit_code() == 2 && text.contains("Lower lora.r") && text.contains("8.0 GB are"),
            "{text}"
        );
        let text = check(&memory(1_000_000, 20_000_000_000), 0, alone(free)).unwrap_err().to_string();
        assert!(text.contains("gradient_checkpointing"), "{text}");
    }

    #[test]
    fn what_is_close_is_told_and_mapped_weights_alone_refuse_nothing() {
        let told = check(&memory(1_000_000, 5_000_000_000), 0, alone(8_000_000_000)).unwrap().unwrap();
        assert!(told.contains("may be slow"), "{told}");
        assert_eq!(check(&memory(1_000_000, 1_000_000_000), 0, alone(8_000_000_000)).unwrap(), None);
        check(&memory(1_000_000, 100_000_000), 0, alone(1_000_000_000)).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_memory_of_this_process_is_known() {
        let touched = std::hint::black_box(vec![1u8; 300 << 20]);
        let [(now, resident), (peak, most)] = in_use()[..] else { panic!("{:?}", in_use()) };
        assert_eq!((now, peak), ("memory_gb", "peak_memory_gb"));
        assert!(resident > 0.3 && most >= resident && most < 100.0, "{resident} {most}");
        drop(touched);
    }

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   1000 kB\nSwapFree:       24 kB\n";
        assert_eq!(machine_available(text), Some(1024 * 1024));
        assert_eq!(machine_available("MemTotal: 3 kB"), None);
        assert_eq!(machine_available("MemAvailable: x kB"), None);
    }
}
