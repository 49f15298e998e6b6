//! Ranks that `mpirun` starts: the bytes of one rank, and a rank that is killed. `cargo test --features mpi --test mpi`.
#![cfg(feature = "mpi")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::program::{Place, Ran, finish};
use serde_json::json;

/// The program under `mpirun`.
fn mpirun(place: &Place, size: usize, args: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    // Open MPI's; MPICH has no such limits and ignores these variables.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("OMPI_MCA_hwloc_base_binding_policy", "none");
    command.args(["-n", &size.to_string(), env!("CARGO_BIN_EXE_dpo-lora")]).args(args);
    command.current_dir(place.path(".")).env("XDG_CACHE_HOME", place.path("cache"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn recipe(place: &Place, accumulation: usize, steps: u64) {
    place.llama_recipe(&[
        ("data.eval", json!(0.3)),
        ("train.max_steps", json!(steps)),
        ("train.save_steps", json!(2)),
        ("train.threads", json!(1)),
        ("train.per_device_train_batch_size", json!(1)),
        ("train.gradient_accumulation_steps", json!(accumulation)),
        ("train.sample_prompts", json!(0)),
    ]);
}

#[test]
fn the_bytes_are_those_of_one_rank_with_the_accumulation() {
    let place = Place::new();
    recipe(&place, 12, 6);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    for size in [2, 3, 4] {
        recipe(&place, 12 / size, 6);
        let output = format!("output_dir=run-{size}");
        let ran =
            finish(mpirun(&place, size, &["train", "-c", "run.yaml", "--set", &output]).spawn().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("{size} ranks share the micro-batches")), "{}", ran.stderr);
        assert_eq!(place.adapter(&format!("run-{size}")), place.adapter("whole"), "{size} ranks");
        assert_eq!(place.metrics(&format!("run-{size}")), place.metrics("whole"), "{size} ranks");
    }
}

/// The processes of ranks, by their `OMPI_COMM_WORLD_RANK` or `PMI_RANK`.
fn process_of(rank: usize, place: &Place) -> Option<u32> {
    let wanted = [format!("OMPI_COMM_WORLD_RANK={rank}"), format!("PMI_RANK={rank}")];
    let cache = format!("XDG_CACHE_HOME={}", place.path("cache").display());
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let set =
            |text: &str| environment.split(|byte| *byte == 0).any(|variable| variable == text.as_bytes());
        (set(&cache) && wanted.iter().any(|wanted| set(wanted))).then_some(id)
    })
}

#[test]
fn a_rank_that_is_killed_or_hangs_ends_all_and_another_number_of_ranks_goes_on() {
    let place = Place::new();
    recipe(&place, 6, 40);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    recipe(&place, 3, 40);
    let args = [
        "train",
        "-c",
        "run.yaml",
        "--auto-resume",
        "--set",
        "train.rank_timeout=2",
        "--set",
        "train.logging_steps=1",
    ];
    for (rank, signal) in [(0, "-KILL"), (1, "-KILL"), (1, "-STOP")] {
        let child = mpirun(&place, 2, &args).spawn().unwrap();
        let lines =
            || std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap_or_default().lines().count();
        let (before, begun) = (lines(), Instant::now());
        while lines() < before + 3 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let process = process_of(rank, &place).unwrap().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
        let struck = Instant::now();
        let Ran { code, stderr, .. } = finish(child);
        assert!(struck.elapsed() < Duration::from_secs(30), "{:?}", struck.elapsed());
        assert_ne!(code, Some(0), "{stderr}");
        // Open MPI itself names a process that was killed.
        let named = format!("rank {rank}");
        assert!(stderr.contains(&named), "{signal}: {stderr}");
    }
    recipe(&place, 2, 40);
    let ran = finish(mpirun(&place, 3, &["train", "--resume", "run"]).spawn().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(place.adapter("run"), place.adapter("whole"));
}
