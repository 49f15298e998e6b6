//! `--resume` of what can be resumed, and of what cannot.

use serde_json::json;

use crate::common::fixture;
use crate::common::program::Place;

fn place() -> Place {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(4)), ("output_dir", json!("runs/first"))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    place
}

#[test]
fn a_mistyped_directory_is_an_error_that_names_those_nearby() {
    let place = place();
    std::fs::create_dir(place.path("runs/empty")).unwrap();
    for (args, found) in [
        (vec!["train", "--resume", "runs/frist"], "runs/frist does not exist"),
        (vec!["train", "--resume", "runs/empty"], "runs/empty holds no run"),
        (
            vec!["train", "-c", "run.yaml", "--resume", "--set", "output_dir=runs/frist"],
            "runs/frist does not exist",
        ),
        (vec!["train", "--resume", "elsewhere"], "elsewhere does not exist"),
    ] {
        let ran = place.run(&args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{}", ran.stderr);
        for words in [found, "runs/first (step 4)", "nothing to resume"] {
            assert!(ran.stderr.contains(words), "{words} in {}", ran.stderr);
        }
        assert!(!place.path("runs/frist").exists() && !place.path("elsewhere").exists());
    }
}

#[test]
fn a_directory_is_resumed_with_its_own_configuration() {
    let place = place();
    let before = place.adapter("runs/first");
    // Neither run.yaml nor the place of the directory matters.
    std::fs::remove_file(place.path("run.yaml")).unwrap();
    std::fs::rename(place.path("runs/first"), place.path("moved")).unwrap();
    place.run(&["train", "--resume", "moved"]).ok();
    assert_eq!(place.adapter("moved"), before);
    assert!(!place.path("runs/first").exists());
    let longer = place.run(&["train", "--resume", "moved", "--set", "train.max_steps=6"]);
    assert!(longer.stderr.contains("train.max_steps was 4, is 6"), "{}", longer.stderr);
    longer.ok();
    assert_eq!(place.metrics("moved").len(), 6);
    for (args, words) in [
        (vec!["--resume", "moved/config.yaml"], "dpo-lora train -c moved/config.yaml --resume"),
        (vec!["--resume", "moved/checkpoints/step-6"], "dpo-lora train --resume moved"),
        (vec!["-c", "x.yaml", "--resume", "moved"], "leave out -c"),
        (vec!["moved"], "dpo-lora train --resume moved"),
    ] {
        let ran = place.run(&[&["train"], &args[..]].concat());
        assert!(ran.code == Some(2) && ran.stderr.contains(words), "{words} in {}", ran.stderr);
    }
    let mut inside = place.command(&["train", "--resume", "checkpoints/step-6"]);
    let ran = inside.current_dir(place.path("moved")).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(2) && said.contains("`dpo-lora train --resume .`"), "{said}");
}

#[test]
fn a_run_keeps_what_resume_needs_and_says_so() {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(6)), ("train.save_steps", json!(1))]);
    let ran = place.run(&["train", "-c", "run.yaml"]);
    let kept: Vec<_> = std::fs::read_dir(place.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept, ["step-6"], "the spare goes when the run is over");
    assert!(
        ran.stderr.contains("run/checkpoints/step-6 (") && ran.stderr.contains("--resume"),
        "{}",
        ran.stderr
    );
    place.run(&["train", "-c", "run.yaml", "--overwrite", "--set", "train.save_total_limit=null"]).ok();
    assert_eq!(std::fs::read_dir(place.path("run/checkpoints")).unwrap().count(), 6);
}

#[test]
fn time_makes_checkpoints_that_change_no_byte() {
    let place = place();
    let checkpoints = |run: &str| {
        let listed = std::fs::read_dir(place.path(run).join("checkpoints")).unwrap();
        let mut names: Vec<String> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // Ten minutes, the default, are not over.
    assert_eq!(checkpoints("runs/first"), ["step-4"]);
    let often = ["--set", "train.save_minutes=1.0e-9", "--set", "train.save_total_limit=null"];
    let run = ["train", "-c", "run.yaml", "--set", "output_dir=runs/often"];
    place.run(&[&run[..], &often[..]].concat()).ok();
    assert_eq!(checkpoints("runs/often"), ["step-1", "step-2", "step-3", "step-4"]);
    assert_eq!(place.adapter("runs/often"), place.adapter("runs/first"));
    // Steps come before time.
    let by_steps = [
        "--set",
        "output_dir=runs/steps",
        "--set",
        "train.save_steps=2",
        "--set",
        "train.save_total_limit=null",
    ];
    place.run(&[&run[..3], &by_steps[..]].concat()).ok();
    assert_eq!(checkpoints("runs/steps"), ["step-2", "step-4"]);
    for (set, words) in [
        (&["train.save_minutes=0"][..], "train.save_minutes is 0"),
        (&["train.save_minutes=5", "train.save_steps=2"], "train.save_minutes is 5, but"),
    ] {
        let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let ran = place.run(&[&run[..3], &set[..]].concat());
        assert!(ran.code == Some(2) && ran.stderr.contains(words), "{}", ran.stderr);
    }
}

#[test]
fn another_loss_and_fewer_steps_are_refused_by_name_and_change_no_file() {
    let place = place();
    let before = place.read("runs/first/config.yaml");
    for (more, words) in [
        (["--loss", "ipo"], "objective.loss_type was sigmoid, is ipo"),
        (["--set", "train.max_steps=2"], "is of step 4, and the run would now have 2"),
    ] {
        let ran = place.run(&[&["train", "--resume", "runs/first"], &more[..]].concat());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains(words) && ran.stderr.contains("--overwrite"),
            "{words} in {}",
            ran.stderr
        );
        assert_eq!(place.read("runs/first/config.yaml"), before);
    }
    place.run(&["train", "--resume", "runs/first", "--loss", "sigmoid"]).ok();
}

#[test]
fn another_setting_of_the_base_is_refused_by_name() {
    let place = Place::new();
    place.model("llama");
    place.recipe("model".as_ref(), &fixture("pairs.jsonl"), &[("train.max_steps", json!(2))]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let resume = |more: &[&str]| {
        place.run(&[&["train", "--resume", "run", "--set", "train.max_steps=3"], more].concat())
    };
    place.edit("model/config.json", |config| config["rope_theta"] = json!(100.0));
    let refused = resume(&[]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    for words in
        ["run/checkpoints/step-2/adapter was trained with other settings", "rope_frequencies[1] was "]
    {
        assert!(refused.stderr.contains(words), "{words} in {}", refused.stderr);
    }
    let forced = resume(&["--force"]);
    assert!(forced.stderr.contains("it is used because of --force"), "{}", forced.stderr);
    forced.ok();
    // From here on, the run has the new setting.
    place.run(&["train", "--resume", "run", "--set", "train.max_steps=4"]).ok();
}
