//! A limit on the size of files (`ulimit -f`), which has the effect of a full disk or a quota without a mount; and a
//! limit on memory (`ulimit -v`).

use std::process::Command;

use serde_json::json;

use crate::common::fixture;
use crate::common::program::{Place, Ran, finish};
use crate::{RESUME, TRAIN, assert_same, assert_sound, assert_told, whole};

/// Runs the program with files of at most that many blocks of 512 bytes (`-f`), or with that many kB of memory (`-v`).
fn limited(place: &Place, limit: &str, args: &[&str]) -> Ran {
    let plain = place.command(args);
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(plain.get_program()).args(plain.get_args());
    command.current_dir(plain.get_current_dir().unwrap());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    finish(command.spawn().unwrap())
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_no_adapter_that_can() {
    let place = whole(9, &[]);
    // An adapter has 19 kB and the moments have 39 kB: neither, one or both fit.
    for (blocks, adapter_fits, fits) in [(20, false, false), (60, true, false), (400, true, true)] {
        let ran = limited(&place, &format!("-f {blocks}"), &TRAIN);
        if fits {
            ran.ok();
        } else {
            assert_told(&ran, &["File too large"]);
            assert_eq!(assert_sound(&place.path("run")), 0);
            for step in [3, 6] {
                let told = format!("warning: there is no checkpoint of step {step}: cannot write ");
                assert!(ran.stderr.contains(&told), "{}", ran.stderr);
            }
            assert_eq!(place.path("run/adapter").exists(), adapter_fits);
            if adapter_fits {
                assert_eq!(place.adapter("run"), place.adapter("whole"));
                for words in
                    ["run/adapter is written", "no checkpoint of step 9, which only training further"]
                {
                    assert!(ran.stderr.contains(words), "{words:?} in {}", ran.stderr);
                }
            }
            place.run(&RESUME).ok();
        }
        assert_same(&place, "run");
        std::fs::remove_dir_all(place.path("run")).unwrap();
    }
}

#[test]
fn a_log_that_cannot_be_written_is_told_once_and_ends_nothing() {
    let rank = [("lora.r", json!(1)), ("train.logging_steps", json!(1)), ("train.eval_steps", json!(100))];
    let place = whole(60, &rank);
    // The log of 60 lines has over 20 kB; the moments of rank 1 have 13 kB.
    let ran = limited(&place, "-f 32", &TRAIN);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("warning: metrics.jsonl: cannot write").count(), 1, "{}", ran.stderr);
    assert_sound(&place.path("run"));
    let (kept, all) = (place.metrics("run"), place.metrics("whole"));
    assert!(kept.len() < all.len() && kept == all[..kept.len()], "{} of {}", kept.len(), all.len());
    assert_eq!(place.adapter("run"), place.adapter("whole"));
}

/// A step of 64 pairs of at least 200 tokens needs more than 150 MB, and everything before it less than 40 MB.
#[test]
fn memory_that_cannot_be_had_in_a_step_ends_the_run_with_its_cause() {
    let place = Place::new();
    let pair = |i: usize| {
        let (chosen, rejected) = ("a good answer, and a long one. ", "a bad one, and longer still. ");
        let pair = json!({"prompt": format!("Question {i}: "), "chosen": chosen.repeat(7), "rejected": rejected.repeat(8)});
        format!("{pair}\n")
    };
    place.write("long.jsonl", (0..64).map(pair).collect::<String>());
    let settings = [
        ("train.max_steps", json!(2)),
        ("train.per_device_train_batch_size", json!(64)),
        ("train.gradient_accumulation_steps", json!(1)),
        ("train.save_steps", json!(1)),
        ("train.threads", json!(1)),
        // The schedule must not depend on the number of steps.
        ("train.lr_scheduler_type", json!("constant")),
        ("train.warmup_steps", json!(0)),
    ];
    place.recipe(&fixture("models/llama"), "long.jsonl".as_ref(), &settings);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    place.run(&["train", "-c", "run.yaml", "--set", "train.max_steps=1"]).ok();
    for kilobytes in [70_000, 100_000] {
        let ran = limited(&place, &format!("-v {kilobytes}"), &RESUME);
        assert_told(&ran, &["out of memory: the system refuses "]);
        assert!(ran.stderr.contains("train.gradient_checkpointing: true"), "{}", ran.stderr);
        assert_eq!(assert_sound(&place.path("run")), 1);
    }
    place.run(&RESUME).ok();
    assert_same(&place, "run");
}
