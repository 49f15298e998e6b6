//! The process is killed, or gets an error, at every single system call that changes a file, for example between write
//! and rename or between rename and sync. This uses `strace -e inject`.

use std::collections::BTreeMap;
use std::process::Command;

use crate::common::program::{Place, Ran, finish};
use crate::{RESUME, assert_same, assert_sound, whole};

const CALLS: &str =
    "mkdir,write,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,rmdir,chmod,fchmod";

fn strace(place: &Place, options: &[&str], args: &[&str]) -> Ran {
    let plain = place.command(args);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "trace", "-e", &format!("trace={CALLS}")]).args(options);
    command.arg(plain.get_program()).args(plain.get_args());
    command.current_dir(plain.get_current_dir().unwrap());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    finish(command.spawn().unwrap_or_else(|e| panic!("strace cannot be started ({e}); install it")))
}

/// Returns how often an undisturbed run makes each call.
fn counts(place: &Place) -> BTreeMap<String, usize> {
    strace(place, &[], &RESUME).ok();
    std::fs::remove_dir_all(place.path("run")).unwrap();
    let trace = String::from_utf8_lossy(&place.read("trace")).into_owned();
    let mut counts = BTreeMap::new();
    for line in trace.lines() {
        let call = line.split_once('(').map_or("", |(call, _)| call.rsplit(' ').next().unwrap_or(""));
        if CALLS.split(',').any(|known| known == call) {
            *counts.entry(call.to_string()).or_insert(0) += 1;
        }
    }
    counts
}

fn fresh(place: &Place) {
    let _ = std::fs::remove_dir_all(place.path("run"));
    let _ = std::fs::remove_dir_all(place.path("cache"));
}

#[test]
#[ignore = "needs strace; two minutes"]
fn killed_at_every_call_that_changes_a_file_it_ends_with_the_same_bytes() {
    let place = whole(12, &[]);
    fresh(&place);
    let mut kills = 0;
    for (call, count) in counts(&place) {
        for n in 1..=count {
            fresh(&place);
            strace(&place, &["-e", &format!("inject={call}:signal=KILL:when={n}")], &RESUME);
            // Messages to standard error are calls, too, and this run may have fewer of them, so it is not always
            // killed.
            assert_sound(&place.path("run"));
            let resumed = place.run(&RESUME);
            assert_eq!(resumed.code, Some(0), "{call} {n}: {}", resumed.stderr);
            assert_same(&place, "run");
            let litter = |name: &str| {
                let entries = std::fs::read_dir(place.path(name)).into_iter().flatten().flatten();
                entries.filter(|e| e.file_name().to_string_lossy().starts_with(".tmp-")).count()
            };
            assert_eq!((litter("run"), litter("run/checkpoints")), (0, 0), "{call} {n}");
            kills += 1;
        }
    }
    println!("{kills} kills, one at each call");
    assert!(kills >= 200, "{kills}");
}

#[test]
#[ignore = "needs strace; five minutes"]
fn refused_at_every_call_that_changes_a_file_it_tells_and_loses_nothing() {
    let place = whole(12, &[]);
    fresh(&place);
    let counts = counts(&place);
    let (mut refusals, mut survived) = (0, 0);
    for (errno, words) in
        [("ENOSPC", "No space left"), ("EIO", "Input/output error"), ("EROFS", "Read-only file system")]
    {
        for (call, count) in &counts {
            for n in 1..=*count {
                fresh(&place);
                let inject = format!("inject={call}:error={errno}:when={n}");
                let ran = strace(&place, &["-e", &inject], &RESUME);
                refusals += 1;
                assert!(!ran.stderr.contains("panicked"), "{inject}: {}", ran.stderr);
                assert_sound(&place.path("run"));
                if ran.code == Some(0) {
                    survived += 1;
                } else {
                    let told = ran.stderr.contains(words);
                    assert!(ran.code == Some(1) && told, "{inject}: {:?} {}", ran.code, ran.stderr);
                    let resumed = place.run(&RESUME);
                    assert_eq!(resumed.code, Some(0), "{inject}: {}", resumed.stderr);
                }
                assert_same(&place, "run");
            }
        }
    }
    println!("{refusals} refused calls; the run went on after {survived} of them");
}
