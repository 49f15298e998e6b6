//! Storms of signals, and processes that race for a run directory.

use std::process::{Child, Command};
use std::time::Duration;

use dpo_lora::random::Stream;

use crate::common::program::finish;
use crate::{RESUME, assert_same, assert_sound, whole};

fn send(child: &Child, name: &str) {
    // The process may just have ended.
    let _ = Command::new("kill")
        .args([name, &child.id().to_string()])
        .stderr(std::process::Stdio::null())
        .status();
}

/// Sends a burst of SIGTERM and SIGINT to a run at a random moment and resumes it, `rounds` times.
fn storm(rounds: u64) {
    let place = whole(40, &[]);
    let moments = Stream::new(2, "storm");
    let (mut ended, mut codes) = (0, std::collections::BTreeMap::<Option<i32>, u32>::new());
    for round in 0..rounds {
        let mut child = place.command(&RESUME).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(moments.below(3 * round, 250_000) as u64));
        for i in 0..1 + moments.below(3 * round + 1, 12) {
            send(&child, if i % 3 == 2 { "-INT" } else { "-TERM" });
            std::thread::sleep(Duration::from_micros(moments.below(3 * round + 2, 2000) as u64));
        }
        let early = child.try_wait().unwrap().is_some();
        let ran = finish(child);
        // Killed before the handlers were installed (no code), stopped with a checkpoint or immediately, or done.
        assert!(matches!(ran.code, None | Some(0 | 130 | 143)), "{:?} {early}: {}", ran.code, ran.stderr);
        *codes.entry(ran.code).or_default() += 1;
        assert_sound(&place.path("run"));
        if ran.code == Some(0) {
            assert_same(&place, "run");
            std::fs::remove_dir_all(place.path("run")).unwrap();
            ended += 1;
        }
    }
    place.run(&RESUME).ok();
    assert_same(&place, "run");
    println!("{rounds} storms, exit codes {codes:?}; the run came to its end {ended} times");
}

/// Starts the same run in several processes at once, `rounds` times. Each process must succeed or be refused.
fn race(rounds: u64, processes: usize, steps: u64) {
    let place = whole(steps, &[]);
    let mut refused = 0;
    for _ in 0..rounds {
        let children: Vec<Child> = (0..processes).map(|_| place.command(&RESUME).spawn().unwrap()).collect();
        let mut done = 0;
        for child in children {
            let ran = finish(child);
            match ran.code {
                Some(0) => done += 1,
                Some(2) => assert!(ran.stderr.contains("in use by process"), "{}", ran.stderr),
                _ => panic!("{:?}: {}", ran.code, ran.stderr),
            }
            refused += u32::from(ran.code == Some(2));
        }
        assert!(done > 0);
        assert_sound(&place.path("run"));
        assert_same(&place, "run");
        std::fs::remove_dir_all(place.path("run")).unwrap();
    }
    println!("{rounds} races of {processes}; {refused} processes were refused, the others took turns");
}

#[test]
fn a_storm_of_signals_loses_nothing() {
    storm(5);
}

#[test]
fn two_that_race_for_a_directory_take_turns_or_one_is_refused() {
    race(1, 2, 40);
}

#[test]
#[ignore = "a minute"]
fn a_hundred_storms() {
    storm(100);
}

#[test]
#[ignore = "two minutes"]
fn races_of_three() {
    // These runs are shorter and longer than the two seconds for which a process waits for a lock.
    race(20, 3, 40);
    race(20, 3, 400);
}
