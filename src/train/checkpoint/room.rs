//! Whether the file system of a run has room for what the run keeps.

use std::path::Path;

use crate::files;
use crate::train::config::TrainConfig;

/// Returns a warning if the file system of a run directory has less room than the run's checkpoints and its adapter take. The
/// checkpoints that are there already are counted as room.
pub fn room(run: &Path, parameters: usize, config: &TrainConfig, steps: u64) -> Option<String> {
    let needed = needed(parameters, config, steps).saturating_sub(files::size(&run.join("checkpoints")));
    let free = free(run)?;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    (needed > free).then(|| {
        format!(
            "the checkpoints and the adapter may take {:.1} MB, and the file system of {} has {:.1} MB left; make room, choose \
             another output_dir, or keep fewer checkpoints (train.save_total_limit)",
            mb(needed),
            run.display(),
            mb(free)
        )
    })
}

/// The most bytes that the files of a run take at a time.
fn needed(parameters: usize, config: &TrainConfig, steps: u64) -> u64 {
    let of_each = |bytes: usize| (bytes as u64).saturating_mul(parameters as u64);
    let (adapter, checkpoint) = (of_each(4), of_each(4 + config.optim.state_bytes()));
    let written = match (config.save_steps, config.save_minutes) {
        (Some(every), _) => steps.div_ceil(every.max(1)),
        // One may be there when the last one is written.
        (None, Some(_)) => 2,
        (None, None) => 1,
    };
    // A checkpoint is written before the oldest one is removed.
    let kept = config.save_total_limit.map_or(u64::MAX, |limit| limit.max(1) as u64 + 1);
    checkpoint.saturating_mul(written.min(kept)).saturating_add(adapter)
}

/// Bytes that the file system of a path has left; `None` if that is not known.
#[cfg(unix)]
fn free(path: &Path) -> Option<u64> {
    // The last ancestor of a relative path is empty: the working directory.
    let there = path.ancestors().find(|place| place.exists()).unwrap_or(Path::new("."));
    let found = rustix::fs::statvfs(there).ok()?;
    // Some file systems of the kernel have no size.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_at_a_time_is_counted() {
        let by_time = TrainConfig::default();
        // Values and two moments, 12 bytes each: two checkpoints, and the adapter.
        assert_eq!(needed(1000, &by_time, 500), 28_000);
        let by_steps = TrainConfig { save_steps: Some(100), save_total_limit: Some(2), ..by_time };
        assert_eq!(needed(1000, &by_steps, 500), 40_000);
        assert_eq!(needed(1000, &by_steps, 90), 16_000);
        let all = TrainConfig { save_total_limit: None, ..by_steps };
        assert_eq!(needed(1000, &all, 500), 64_000);
    }

    #[test]
    #[cfg(unix)]
    fn a_file_system_that_is_too_small_is_told() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("runs/a");
        let told = room(&run, usize::MAX, &TrainConfig::default(), 10).unwrap();
        assert!(told.contains("runs/a has ") && told.contains("train.save_total_limit"), "{told}");
        assert_eq!(room(&run, 1, &TrainConfig::default(), 10), None);
        assert!(room(Path::new("no such run"), usize::MAX, &TrainConfig::default(), 10).is_some());
    }
}
