//! A small file system in memory that is filled, grown, and made read-only. These tests need root.

use std::path::PathBuf;
use std::time::Duration;

use crate::common::program::{Place, finish};
use crate::{RESUME, assert_same, assert_sound, assert_told, lines, logged, system, whole};

/// The run directory on a file system of its own.
struct Mount {
    path: PathBuf,
}

impl Mount {
    fn new(place: &Place, kilobytes: u32) -> Self {
        let path = place.path("run");
        std::fs::create_dir_all(&path).unwrap();
        system(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs", path.to_str().unwrap()],
        );
        Self { path }
    }

    fn remount(&self, options: &str) {
        system("mount", &["-o", &format!("remount,{options}"), self.path.to_str().unwrap()]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.path).status();
    }
}

#[test]
#[ignore = "needs root; a minute"]
fn a_full_disk_of_every_size_ends_the_run_with_its_cause() {
    let place = whole(60, &[]);
    let (mut failed, mut went_on) = (0, 0);
    // From less than the log to everything. Two checkpoints have 140 kB, and a third is written before one is removed.
    for kilobytes in (4..=320).step_by(4) {
        let mount = Mount::new(&place, kilobytes);
        let ran = place.run(&RESUME);
        let kept = assert_sound(&mount.path);
        if ran.code == Some(0) {
            went_on += 1;
        } else {
            failed += 1;
            assert_told(&ran, &["No space left on device"]);
            mount.remount("size=64m");
            let resumed = place.run(&RESUME);
            assert_eq!(resumed.stderr.contains("resumed from"), kept > 0, "{}", resumed.stderr);
            resumed.ok();
        }
        assert_same(&place, "run");
    }
    println!("{failed} sizes ended the run, {went_on} did not; all ended with the same bytes");
    assert!(failed > 20 && went_on > 0);
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_is_full_for_a_while_costs_no_line_of_the_log_and_only_checkpoints_by_time() {
    let by_time = [("train.save_steps", serde_json::Value::Null), ("train.save_minutes", 0.001.into())];
    let place = whole(400, &by_time);
    let mount = Mount::new(&place, 2048);
    let mut child = place.command(&RESUME).spawn().unwrap();
    logged(&mut child, &mount.path, 20);
    let fill = mount.path.join("fill");
    // Fills the file system.
    let _ = std::fs::write(&fill, vec![1; 4 << 20]);
    let before = lines(&mount.path);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the run was over before the disk was full");
    let during = lines(&mount.path);
    std::fs::remove_file(&fill).unwrap();
    let ran = finish(child);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(during - before < 20, "the disk was not full: {before} to {during}");
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: there is no checkpoint of step "), "{}", ran.stderr);
    assert_sound(&mount.path);
    assert_same(&place, "run");
}

/// A file system cannot become read-only while a run's log is open, so the run is stopped in between; `syscalls` tests
/// that the call itself fails.
#[test]
#[ignore = "needs root"]
fn a_directory_that_is_read_only_is_told_of_and_left_as_it_is() {
    let place = whole(200, &[]);
    for line in [1, 3, 10, 25, 60, 110] {
        let mount = Mount::new(&place, 8192);
        let mut child = place.command(&RESUME).spawn().unwrap();
        logged(&mut child, &mount.path, line);
        child.kill().unwrap();
        finish(child);
        let kept = assert_sound(&mount.path);
        mount.remount("ro");
        assert_told(&place.run(&RESUME), &["Read-only file system"]);
        assert_eq!(assert_sound(&mount.path), kept);
        mount.remount("rw");
        place.run(&RESUME).ok();
        assert_same(&place, "run");
    }
}

#[test]
#[ignore = "needs root and chattr"]
fn permission_that_is_revoked_ends_the_run_with_its_cause() {
    let place = whole(200, &[]);
    for (line, revoked) in [(3, "checkpoints"), (20, "checkpoints"), (20, "."), (50, "checkpoints/step-30")] {
        let run = place.path("run");
        let mut child = place.command(&RESUME).spawn().unwrap();
        logged(&mut child, &run, line);
        let path = run.join(revoked);
        let path = path.to_str().unwrap();
        if !std::path::Path::new(path).exists() {
            finish(child);
            std::fs::remove_dir_all(&run).unwrap();
            continue;
        }
        // Root ignores modes, but not even root changes immutable files.
        system("chattr", &["+i", path]);
        let ran = finish(child);
        system("chattr", &["-i", path]);
        assert_sound(&run);
        if revoked == "checkpoints/step-30" {
            // An old checkpoint that cannot be removed is reported, and the run continues.
            assert!(ran.stderr.contains("an old checkpoint cannot be removed"), "{}", ran.stderr);
            ran.ok();
        } else if ran.code != Some(0) {
            assert_told(&ran, &["Operation not permitted"]);
            place.run(&RESUME).ok();
        }
        assert_same(&place, "run");
        std::fs::remove_dir_all(&run).unwrap();
    }
}
