//! Ranks whose models compute on devices, as threads of this process: gradients pass through the memory of the host, or by NCCL,
//! of which `device/nccl_mock.c` stands in. The devices are the kernels compiled for the processor (`common/device.rs`).
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use common::device::device;
use common::fixture;
use dpo_lora::ranks::{Ranks, launch};
use dpo_lora::report::Reporter;
use dpo_lora::toolkit::{Base, Inputs, OpenOptions, Run};
use dpo_lora::train::run_dir::{Opening, RunDir};
use dpo_lora::{Result, RunConfig};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

/// A run of five steps of six micro-batches in this directory.
fn config(directory: &Path, (r, lora_alpha): (usize, usize)) -> RunConfig {
    let yaml = json!({
        "output_dir": directory,
        "model": {"base": fixture("models/llama"), "device": "cpu"},
        "lora": {"r": r, "lora_alpha": lora_alpha, "lora_dropout": 0.1},
        "data": {"train": fixture("pairs.jsonl"), "eval": 0.3},
        "train": {
            "max_steps": 5, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 6, "learning_rate": 1e-3,
            "eval_steps": 2, "save_steps": 2, "reference_cache": "off", "sample_prompts": 0,
        },
    });
    RunConfig::from_yaml(&yaml.to_string(), "a test", &[]).unwrap()
}

/// Trains as one rank of some, or alone; returns the adapter's bytes if it is the first.
fn train(directory: &Path, scale: (usize, usize), ranks: &Ranks) -> Result<Vec<u8>> {
    let config = config(directory, scale);
    let mut base = Base::open_with(&config.model.base, &OpenOptions::on_cpu())?;
    base.backend = device();
    let run = Run::on(ranks, Inputs::read(config, &base, false)?, &base)?;
    let place = match ranks.is_first() {
        true => RunDir::open(directory, Opening::Fresh)?,
        false => RunDir::of_another(directory),
    };
    let mut ready = run.ready(&place, Arc::new(AtomicU8::new(0)), false)?;
    ready.trainer.run(&mut Reporter::new())?;
    ranks.leave()?;
    Ok(match ranks.is_first() {
        true => std::fs::read(directory.join("adapter/adapter_model.safetensors")).unwrap(),
        false => Vec::new(),
    })
}

/// Trains as so many ranks; returns what each says.
fn together(directory: &Path, scale: (usize, usize), size: usize) -> Vec<Result<Vec<u8>>> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let of = move |rank: usize| {
        let variable = move |name: &str| match name {
            "RANK" => Some(rank.to_string()),
            "WORLD_SIZE" => Some(size.to_string()),
            "MASTER_ADDR" => Some(format!("127.0.0.1:{port}")),
            _ => None,
        };
        train(directory, scale, &Ranks::join(launch(variable)?, PATIENCE)?)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size).map(|rank| scope.spawn(move || of(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Checks that the number of ranks changes no bit.
fn check() {
    let place = tempfile::tempdir().unwrap();
    // With a scale of 2, scaling a sum and adding scaled gradients round alike, so that one process has the same bytes, too.
    for (scale, alone) in [((4, 8), true), ((3, 5), false)] {
        let path = |name: String| place.path().join(format!("{}-{name}", scale.0));
        let mut adapters = Vec::new();
        if alone {
            adapters.push(train(&path("alone".into()), scale, &Ranks::alone()).unwrap());
        }
        for size in [2, 3] {
            let mut found = together(&path(size.to_string()), scale, size);
            adapters.push(found.remove(0).unwrap());
            found.into_iter().for_each(|other| drop(other.unwrap()));
        }
        assert!(adapters.iter().all(|adapter| *adapter == adapters[0]), "{scale:?}");
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_cards() {
    if device().is_some() {
        check();
    }
}

fn mock(place: &Path) -> Option<PathBuf> {
    let (source, library) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device/nccl_mock.c"), place.join("nccl.so"));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let ran = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-pthread", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    ran.is_ok_and(|status| status.success()).then_some(library)
}

/// Runs a test of this file that is ignored otherwise, with these variables.
fn rerun(test: &str, variables: &[(&str, &Path)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--nocapture"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn nccl_carries_the_sum_from_card_to_card() {
    let place = tempfile::tempdir().unwrap();
    let (Some(_), Some(library)) = (device(), mock(place.path())) else {
        eprintln!("there is no C compiler: NCCL is not tested");
        return;
    };
    let log = place.path().join("log");
    rerun("with_nccl", &[("DPO_LORA_NCCL", &library), ("MOCK_NCCL_LOG", &log)]);
    let joined = std::fs::read_to_string(&log).unwrap();
    // Two ranks and three, for each of two scales.
    assert_eq!(joined.lines().count(), 10, "{joined}");
    assert!(joined.contains("rank 2 of 3"), "{joined}");
}

#[test]
#[ignore = "run by another test, with the variables of the environment that it needs"]
fn with_nccl() {
    check();
}

#[test]
fn without_nccl_on_every_rank_host_memory_is_used() {
    if device().is_some() {
        rerun("two_ranks", &[("DPO_LORA_NCCL", Path::new("/nowhere/libnccl.so.2"))]);
    }
}

#[test]
#[ignore = "run by another test, with the variables of the environment that it needs"]
fn two_ranks() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let alone = train(&path("alone"), (4, 8), &Ranks::alone()).unwrap();
    let found: Result<Vec<_>> = together(&path("two"), (4, 8), 2).into_iter().collect();
    assert!(found.unwrap()[0] == alone);
}
