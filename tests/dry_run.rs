//! `train --dry-run` checks everything and writes nothing.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

#[test]
fn a_dry_run_describes_the_run_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let train = |overrides: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpo-lora"));
        command.args(["train", "--dry-run"]).args(overrides).current_dir(directory.path());
        let output = command.env("XDG_CACHE_HOME", directory.path().join("cache")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = train(&["--set", "lora.r=3"]);
    assert_eq!(code, Some(0), "{said}");
    // A tied head and 4 layers of 128 and 384 features, 64 for keys and values: r·Σ(in + out) over the 28 linear
    // modules.
    let per_layer = 2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 384);
    assert!(
        said.contains(&format!("28 modules would be adapted, {} parameters", 3 * 4 * per_layer)),
        "{said}"
    );
    assert!(said.contains("2000 training pairs, 200 held out"), "{said}");
    assert!(!directory.path().join("runs").exists());
    let course = "125 steps of 16 pairs: 1 epoch over 2000 pairs; learning rate 3e-4 at its peak, cosine after a warm-up of \
                  10 steps";
    assert!(said.contains(course) && !said.contains("warning"), "{said}");

    let (_, said) = train(&["--lr", "5e-6", "--set", "train.max_steps=4", "--set", "train.warmup_steps=0"]);
    assert!(
        said.contains("warning: the run is too short to learn: 4 steps at learning rates of up to 5e-6"),
        "{said}"
    );
    assert!(said.contains("try train.learning_rate: 2e-4 and train.max_steps: "), "{said}");
    let (_, said) = train(&["--lr", "5e-3"]);
    assert!(said.contains("warning: the learning rate of 5e-3 is too high"), "{said}");

    // A step that is larger than the data has no more tokens than they have.
    let tokens = |batch: &str| {
        let one = "train.gradient_accumulation_steps=1";
        let (_, said) = train(&["--set", "data.limit=40", "--set", batch, "--set", one]);
        let line = said.lines().find(|line| line.contains("packed tokens a step")).unwrap().to_string();
        line.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let all = tokens("train.per_device_train_batch_size=40");
    assert!(all > 0);
    assert_eq!(tokens("train.per_device_train_batch_size=160"), all);

    let (_, said) = train(&["--set", "lora.r=3"]);
    assert!(said.contains(" MB: weights ") && said.contains(", tokenizer "), "{said}");
    assert!(!said.contains("the checkpoints and the adapter may take"), "{said}");

    let rewarded = ["--loss", "grpo", "--set", "rollout.reward=length", "--set", "data.eval=null"];
    let (_, said) = train(&rewarded);
    assert!(said.contains("2000 training prompts, 0 held out") && !said.contains("pairs"), "{said}");

    let (code, said) = train(&["--set", "data.train=missing.jsonl"]);
    assert!(code != Some(0) && said.contains("missing.jsonl"), "{said}");
}
