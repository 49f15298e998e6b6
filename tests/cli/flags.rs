//! `train --base B --data F`: a run without a configuration file.

use serde_json::json;
use serde_yaml::Value;

use crate::common::fixture;
use crate::common::program::{Place, finish};

/// The arguments of a short run of the llama fixture, and more.
fn arguments(more: &[&str]) -> Vec<String> {
    let (base, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let first = ["train", "--base", base.to_str().unwrap(), "--data", data.to_str().unwrap()];
    first.iter().chain(more).map(ToString::to_string).collect()
}

fn train(place: &Place, more: &[&str]) -> crate::common::program::Ran {
    let arguments = arguments(more);
    place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn resolved(place: &Place, run: &str) -> Value {
    serde_yaml::from_slice(&place.read(&format!("{run}/config.yaml"))).unwrap()
}

#[test]
fn a_base_and_data_are_enough_and_the_run_can_be_reproduced_and_resumed() {
    let place = Place::new();
    let ran = train(&place, &["--set", "train.max_steps=2"]);
    assert_eq!(ran.ok(), "", "no samples of the quickstart");
    let config = resolved(&place, "runs/dpo");
    assert_eq!(config["train"]["max_steps"], Value::from(2));
    assert!(config["data"]["train"].as_str().unwrap().ends_with("pairs.jsonl"), "{config:?}");
    // The resolved configuration is a run of its own.
    place.run(&["train", "-c", "runs/dpo/config.yaml", "--output", "again"]).ok();
    assert_eq!(place.adapter("again"), place.adapter("runs/dpo"));
    // The next run has the next directory, and the last one is resumed.
    train(&place, &["--set", "train.max_steps=2", "--set", "seed=7"]).ok();
    assert_ne!(place.adapter("runs/dpo-2"), place.adapter("runs/dpo"));
    let resumed = train(&place, &["--set", "train.max_steps=3", "--set", "seed=7", "--resume"]);
    assert!(resumed.stderr.contains("train.max_steps was 2, is 3"), "{}", resumed.stderr);
    assert!(!place.path("runs/dpo-3").exists());
    let longer = train(&place, &["--set", "train.max_steps=3", "--set", "seed=7", "--output", "longer"]);
    longer.ok();
    assert!(place.path("runs/dpo-2/checkpoints/step-3").exists());
}

#[test]
fn runs_that_start_at_once_take_directories_of_their_own() {
    let place = Place::new();
    let arguments = arguments(&["--set", "train.max_steps=2"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let children: Vec<_> = (0..3).map(|_| place.command(&arguments).spawn().unwrap()).collect();
    for child in children {
        finish(child).ok();
    }
    for run in ["runs/dpo", "runs/dpo-2", "runs/dpo-3"] {
        assert_eq!(resolved(&place, run)["output_dir"], Value::from(run));
        assert_eq!(place.adapter(run), place.adapter("runs/dpo"));
    }
}

#[test]
fn every_flag_sets_its_key() {
    let place = Place::new();
    let flags = [
        ["--eval-data", "0.25"],
        ["--output", "there"],
        ["--loss", "sigmoid,sft"],
        ["--beta", "0.3"],
        ["--lr", "2e-4"],
        ["--epochs", "0.5"],
    ];
    train(&place, flags.as_flattened()).ok();
    let config = resolved(&place, "there");
    assert_eq!(config["data"]["eval"], Value::from(0.25));
    assert_eq!(config["objective"]["beta"], Value::from(0.3));
    let losses: Vec<&str> =
        config["objective"]["loss_type"].as_sequence().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(losses, ["sigmoid", "sft"]);
    assert_eq!(config["train"]["learning_rate"], Value::from(2e-4));
    assert_eq!(config["train"]["num_train_epochs"], Value::from(0.5));
}

#[test]
fn epochs_beside_a_number_of_steps_are_told_to_have_no_effect() {
    let place = Place::new();
    place.llama_recipe(&[]);
    let said = |more: &[&str]| {
        let ran = place.run(&[&["train", "-c", "run.yaml", "--overwrite", "--epochs", "3"], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stderr
    };
    let told = "--epochs 3 has no effect: train.max_steps is 6, which decides how long the run is";
    assert_eq!(said(&[]).matches(told).count(), 1, "{}", said(&[]));
    assert!(!said(&["--set", "train.max_steps=null"]).contains("has no effect"));
    // Those of the quickstart are in the program.
    let dry = place.run(&["train", "--epochs", "3", "--dry-run"]);
    assert!(dry.stderr.contains("train.max_steps is 125"), "{}", dry.stderr);
    // They do not count where half of another run is named.
    let half = place.run(&["train", "--epochs", "3", "--data", "pairs.jsonl"]);
    assert!(half.stderr.contains("--data is given without --base"), "{}", half.stderr);
    assert!(!half.stderr.contains("has no effect"), "{}", half.stderr);
    // Of stages no number is named, unless all have the same.
    for (steps, told) in [(5, "is set for every stage"), (6, "is 6, which decides")] {
        let stages = json!(["preferred_ft", {"name": "dpo", "train": {"max_steps": steps}}]);
        place.llama_recipe(&[("stages", stages)]);
        let dry = place.run(&["train", "-c", "run.yaml", "--overwrite", "--epochs", "3", "--dry-run"]);
        let told = format!("--epochs 3 has no effect: train.max_steps {told}");
        assert!(dry.stderr.contains(&told), "{}", dry.stderr);
    }
}

#[test]
fn flags_override_a_file_and_globs_and_numbers_are_names() {
    let place = Place::new();
    place.llama_recipe(&[]);
    let pairs = std::fs::read(fixture("pairs.jsonl")).unwrap();
    place.write("a.jsonl", &pairs);
    place.write("1e5", &pairs);
    let flags =
        ["train", "-c", "run.yaml", "--data", "*.jsonl", "--data", "1e5", "--output", "1e3", "--lr", "3e-4"];
    place.run(&flags).ok();
    let config = resolved(&place, "1e3");
    assert_eq!(config["data"]["train"], serde_yaml::from_str::<Value>("['*.jsonl', '1e5']").unwrap());
    assert_eq!(config["train"]["learning_rate"], Value::from(3e-4));
    assert_eq!(config["lora"]["r"], Value::from(3), "the file's");
    assert!(!place.path("run").exists());
}

#[test]
fn half_a_run_and_a_key_given_twice_are_refused_with_the_remedy() {
    let place = Place::new();
    let refused = [
        (vec!["--base", "m"], "--base is given without --data; name the records"),
        (vec!["--data", "d.jsonl"], "--data is given without --base; name the model"),
        (vec!["--base", "m", "--set", "data.eval=0.1"], "--base is given without --data"),
        (
            vec!["--base", "m", "--data", "d", "--lr", "1e-4", "--set", "train.learning_rate=1e-5"],
            "--learning-rate and --set train.learning_rate set the same key",
        ),
        (vec!["--base", "m", "--data", "d", "--lr", "-1"], "train.learning_rate is -1"),
        (vec!["--base", "m", "--data", "d", "--epochs", "0"], "train.num_train_epochs is 0"),
        (vec!["--base", "m", "--data", "d", "--loss", "sigmod"], "objective.loss_type is sigmod"),
        (vec!["--base", "m", "--data", "d", "--eval-data", "1.5"], "data.eval is 1.5"),
        (vec!["--base", "tiny-reviews", "--data", "tiny-reviews/eval.jsonl", "--eval-data", "nan"], "nan"),
        (vec!["--base", "tiny-reviews", "--data", "tiny-reviews/eval.jsonl", "--eval-data", "inf"], "inf"),
    ];
    for (flags, message) in refused {
        let ran = place.run(&[&["train"], flags.as_slice()].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{flags:?}");
        assert!(ran.stderr.contains(message), "{flags:?}: {}", ran.stderr);
    }
    assert!(!place.path("runs").exists());
    // A base by flag and data by --set are both given.
    let (base, data) = (fixture("models/llama"), format!("data.train={}", fixture("pairs.jsonl").display()));
    let sets = ["--set", &data, "--set", "train.max_steps=1"];
    place.run(&[&["train", "--base", base.to_str().unwrap()], &sets[..]].concat()).ok();
    // So are both by --set: nothing of the quickstart is in such a run.
    let base = format!("model.base={}", base.display());
    let ran = place.run(&[&["train", "--set", &base], &sets[..]].concat());
    assert_eq!(ran.ok(), "");
    let config = resolved(&place, "runs/dpo-2");
    assert_eq!(config["train"]["learning_rate"], Value::from(1e-4));
    assert!(!place.path("runs/quickstart").exists());
}
