//! `train` with `stages`: what it writes, what it refuses, and that it ends with the same bytes however often it is killed.
#![cfg(unix)]

use std::time::Duration;

use dpo_lora::random::Stream;
use serde_json::json;

use crate::common::fixture;
use crate::common::program::{Place, finish};

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];
const RESUME: [&str; 4] = ["train", "-c", "run.yaml", "--resume"];
const AGAIN: [&str; 4] = ["train", "-c", "run.yaml", "--auto-resume"];

/// Fine-tuning on the chosen answers, then DPO, which continues or stacks, and then DPO on top of both.
fn recipe(place: &Place, second: &str) {
    let stages = json!([
        "preferred_ft",
        {"name": "dpo", "adapter": second, "objective": {"beta": 0.3}, "train": {"max_steps": 5, "eval_steps": 2}},
        {"name": "again", "adapter": "stack", "lora": {"r": 2}, "objective": {"loss_type": "ipo"}, "train": {"max_steps": 3}},
    ]);
    place.llama_recipe(&[
        ("data.eval", json!(0.3)),
        ("train.save_steps", json!(2)),
        ("train.threads", json!(1)),
        ("stages", stages),
    ]);
}

/// The files of every stage and of the whole run, without what the clock says.
fn assert_same(place: &Place, run: &str) {
    assert_eq!(place.adapter(run), place.adapter("whole"));
    for stage in ["1-preferred_ft", "2-dpo", "3-again"] {
        let (run, whole) = (format!("{run}/{stage}"), format!("whole/{stage}"));
        assert_eq!(place.adapter(&run), place.adapter(&whole), "{run}");
        assert_eq!(place.metrics(&run), place.metrics(&whole), "{run}");
    }
}

fn whole(place: &Place, second: &str) {
    recipe(place, second);
    place.run(&[&TRAIN[..], &["--set", "output_dir=whole"]].concat()).ok();
}

#[test]
fn killed_at_random_moments_the_stages_end_with_the_same_bytes() {
    let place = Place::new();
    whole(&place, "continue");
    let moments = Stream::new(3, "kills");
    let mut kills = 0;
    for kill in 0..40 {
        let mut child = place.command(&AGAIN).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + moments.below(kill, 400) as u64));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        child.kill().unwrap();
        finish(child);
        kills += 1;
    }
    assert!(kills > 0, "the run was never killed");
    place.run(&RESUME).ok();
    assert_same(&place, "run");
}

/// What is left after a kill between two stages, and before the last adapter is written.
#[test]
fn a_run_that_ends_between_two_stages_goes_on_with_the_next() {
    let place = Place::new();
    whole(&place, "stack");
    let stages = ["1-preferred_ft", "2-dpo", "3-again"];
    for done in 0..=stages.len() {
        let _ = std::fs::remove_dir_all(place.path("run"));
        std::fs::create_dir(place.path("run")).unwrap();
        place.write("run/config.yaml", place.read("whole/config.yaml"));
        for stage in &stages[..done] {
            crate::common::program::copy(
                &place.path(&format!("whole/{stage}")),
                &place.path(&format!("run/{stage}")),
            );
        }
        let ran = place.run(&RESUME);
        assert_eq!(ran.stderr.matches("finished before").count(), done.min(2), "{}", ran.stderr);
        ran.ok();
        assert_same(&place, "run");
    }
}

#[test]
fn the_result_is_one_adapter_that_is_the_stages_together() {
    let place = Place::new();
    whole(&place, "continue");
    let (base, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let (base, data) = (base.to_str().unwrap(), data.to_str().unwrap());
    let score = |adapters: &[&str]| {
        let named = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        let args: Vec<&str> = ["score", "--base", base, "--data", data].into_iter().chain(named).collect();
        place.run(&args).json()
    };
    let together = score(&["whole/2-dpo/adapter", "whole/3-again/adapter"]);
    let result = score(&["whole/adapter"]);
    assert_eq!(together.len(), result.len());
    for (a, b) in together.iter().zip(&result) {
        for key in ["chosen_logp", "rejected_logp"] {
            let of = |line: &serde_json::Value| line[key].as_f64().unwrap();
            assert!((of(a) - of(b)).abs() < 1e-4, "{key}: {a} {b}");
        }
    }
    assert_ne!(together, score(&["whole/2-dpo/adapter"]), "the last stage changes something");
    // A stage that continues begins where the one before ended: its rewards are 0 before its first step.
    let first = &place.metrics("whole/2-dpo")[0];
    assert_eq!(first["eval_rewards/margins"].as_f64(), Some(0.0), "{first}");
    // Preferred-FT passes only the chosen answers through the model.
    let trained: Vec<_> =
        place.metrics("whole/1-preferred_ft").into_iter().filter(|l| l["loss"].is_f64()).collect();
    assert!(
        !trained.is_empty() && trained.iter().all(|line| line["logps/rejected"].is_null()),
        "{trained:?}"
    );
}

#[test]
fn a_dry_run_lists_the_stages_and_writes_nothing() {
    let place = Place::new();
    recipe(&place, "stack");
    let ran = place.run(&[&TRAIN[..], &["--dry-run"]].concat());
    for part in [
        "stage 1 of 3: preferred_ft (sft)",
        "stage 2 of 3: dpo (sigmoid), which trains a new adapter on top of preferred_ft",
        "stage 3 of 3: again (ipo)",
        "nothing was written",
    ] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    ran.ok();
    assert!(!place.path("run").exists());
}

/// The numbers of trained parameters that a dry run states.
fn parameters(text: &str) -> Vec<usize> {
    let before = text.split(" parameters trained").filter_map(|part| part.rsplit(' ').next()?.parse().ok());
    before.collect()
}

#[test]
fn a_stage_after_pissa_is_described_with_the_adapter_that_it_gets() {
    let place = Place::new();
    let stages = json!([{"name": "sft", "lora": {"init_lora_weights": "pissa"}}, "dpo"]);
    place.llama_recipe(&[("train.max_steps", json!(2)), ("stages", stages)]);
    let described = |more: &[&str]| {
        let ran = place.run(&[&TRAIN[..], &["--dry-run"], more].concat());
        let found = parameters(&ran.stderr);
        ran.ok();
        found
    };
    let before = described(&[]);
    let [first, second] = before[..] else { panic!("{before:?}") };
    assert_eq!(second, 2 * first);
    place.run(&TRAIN).ok();
    // The second stage is unfinished, and its adapter is read.
    std::fs::remove_dir_all(place.path("run/2-dpo")).unwrap();
    std::fs::remove_dir_all(place.path("run/adapter")).unwrap();
    assert_eq!(described(&["--resume"]), [second]);
}

#[test]
fn a_later_stage_that_cannot_begin_stops_the_run_before_the_first() {
    let place = Place::new();
    let stages = json!(["sft", {"name": "dpo", "adapter": "stack", "lora": {"target_modules": ["lm_haed"]}}]);
    place.llama_recipe(&[("train.max_steps", json!(2)), ("stages", stages)]);
    let ran = place.run(&TRAIN);
    assert!(ran.stderr.contains("stage dpo: ") && ran.stderr.contains("lm_haed"), "{}", ran.stderr);
    assert_eq!(ran.code, Some(2));
    assert!(!place.path("run/1-sft").exists(), "nothing was trained");
}

#[test]
fn sft_is_evaluated_on_the_chosen_answers_however_they_are_held_out() {
    let place = Place::new();
    let data = fixture("pairs.jsonl");
    for (name, eval) in [("file", json!(data)), ("part", json!(0.5))] {
        place.llama_recipe(&[
            ("output_dir", json!(name)),
            ("data.eval", eval),
            ("objective.loss_type", json!("sft")),
            ("train.max_steps", json!(1)),
        ]);
        place.run(&TRAIN).ok();
        let lines = place.metrics(name);
        let evaluated = lines.iter().find(|line| line["eval_loss"].is_f64()).unwrap();
        assert!(evaluated["eval_logps/rejected"].is_null(), "{name}: {evaluated}");
    }
}

#[test]
fn another_recipe_in_the_same_directory_is_refused() {
    let place = Place::new();
    whole(&place, "continue");
    let resumed = |settings: &[&str]| {
        let args: Vec<&str> = RESUME.into_iter().chain(["--set", "output_dir=whole"]).collect();
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        place.run(&args.into_iter().chain(settings).collect::<Vec<_>>())
    };
    for (settings, part) in [
        (vec!["stages.preferred_ft.train.max_steps=9"], "stage preferred_ft is finished"),
        (vec!["stages.dpo.objective.beta=0.5"], "objective.beta was 0.3, is 0.5"),
        (vec!["stages.dop.train.max_steps=9"], "there is no stage dop"),
        (vec!["seed=7"], "seed was 42, is 7"),
    ] {
        let ran = resumed(&settings);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    // The last stage may go on.
    resumed(&["stages.again.train.max_steps=4"]).ok();
    let single = Place::new();
    single.llama_recipe(&[]);
    let moved = place.path("whole");
    let output = format!("output_dir={}", moved.display());
    let ran = single.run(&[&RESUME[..], &["--set", &output]].concat());
    assert!(ran.code == Some(2) && ran.stderr.contains("a run with stages"), "{}", ran.stderr);
    let fresh = place.run(&[&TRAIN[..], &["--set", "output_dir=whole"]].concat());
    assert!(fresh.code == Some(2) && fresh.stderr.contains("--overwrite"), "{}", fresh.stderr);
    place.run(&[&TRAIN[..], &["--overwrite", "--set", "output_dir=whole"]].concat()).ok();
}

/// The metadata of an adapter's weights.
fn metadata(place: &Place, adapter: &str) -> serde_json::Value {
    let bytes = place.read(&format!("{adapter}/adapter_model.safetensors"));
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["__metadata__"].clone()
}

/// Two stages, the second of which is stacked.
fn stacked(place: &Place) {
    let stages = json!(["preferred_ft", {"name": "dpo", "adapter": "stack", "lora": {"r": 2}}]);
    place.llama_recipe(&[("train.max_steps", json!(3)), ("train.threads", json!(1)), ("stages", stages)]);
    place.run(&TRAIN).ok();
}

#[test]
fn an_adapter_that_was_trained_above_another_says_so_and_is_missed_without_it() {
    let place = Place::new();
    stacked(&place);
    let noted = |adapter: &str| metadata(&place, adapter)["dpo_lora.frozen_adapters"].clone();
    let frozen: serde_json::Value =
        serde_json::from_str(noted("run/2-dpo/adapter").as_str().unwrap()).unwrap();
    assert_eq!((frozen.as_array().unwrap().len(), &frozen[0]["path"]), (1, &json!("1-preferred_ft/adapter")));
    assert_eq!((noted("run/1-preferred_ft/adapter"), noted("run/adapter")), (json!(null), json!(null)));
    let inspect = |adapter: &str| place.run(&["inspect", adapter, "--json"]).json().remove(0);
    assert_eq!(inspect("run/2-dpo/adapter")["frozen_adapters"], frozen);
    assert_eq!(inspect("run/adapter")["frozen_adapters"], json!(null));
    let card = |adapter: &str| String::from_utf8(place.read(&format!("{adapter}/README.md"))).unwrap();
    let above = card("run/2-dpo/adapter");
    assert_eq!(above.matches("--adapter 1-preferred_ft/adapter --adapter PATH").count(), 3, "{above}");
    let whole = card("run/adapter");
    assert!(
        whole.contains("stages `preferred_ft`, `dpo` in one") && !whole.contains("1-preferred_ft/"),
        "{whole}"
    );

    let (base, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let (base, data) = (base.to_str().unwrap(), data.to_str().unwrap());
    let both = ["--adapter", "run/1-preferred_ft/adapter", "--adapter", "run/2-dpo/adapter"];
    let alone = ["--adapter", "run/2-dpo"];
    let said =
        |ran: &crate::common::program::Ran| ran.stderr.contains("was trained above the frozen adapter");
    for (name, command) in [
        ("score", &["score", "--data", data][..]),
        ("eval", &["eval", "--data", data]),
        ("config", &["eval", "--data", data, "--config", "run/2-dpo/config.yaml"]),
        ("generate", &["generate", "--prompt", "a b", "--max-new-tokens", "2"]),
        ("merge", &["merge", "--no-verify", "--output", "merged", "--force"]),
        ("combined", &["merge", "--output-adapter", "combined", "--combination", "cat", "--force"]),
        ("export", &["export", "--format", "peft", "--output", "exported", "--force"]),
    ] {
        let run = |adapters: &[&str]| place.run(&[command, &["--base", base], adapters].concat());
        let ran = run(&alone);
        assert!(ran.code == Some(0) && said(&ran), "{name}: {}", ran.stderr);
        let named = "name all of them: --adapter run/1-preferred_ft/adapter --adapter run/2-dpo\n";
        assert!(ran.stderr.contains(named), "{name}: {}", ran.stderr);
        for complete in [&both[..], &["--adapter", "run/adapter"]] {
            let ran = run(complete);
            assert!(ran.code == Some(0) && !said(&ran), "{name}: {}", ran.stderr);
        }
        // What is made of it alone goes on to say so.
        if ["combined", "export"].contains(&name) {
            run(&alone).ok();
            let made = if name == "export" { "exported" } else { name };
            let again = place.run(&["score", "--data", data, "--base", base, "--adapter", made]);
            assert!(said(&again), "{name}: {}", again.stderr);
        }
    }
    let pushed = place.run(&["push", "run/2-dpo", "me/polite", "--dry-run"]);
    assert!(said(&pushed) && pushed.stderr.contains("--combination cat"), "{}", pushed.stderr);
    // A run that goes on with it, or trains above it, needs what is below it.
    let set = |settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        place.llama_recipe(&[("output_dir", json!("next")), ("train.max_steps", json!(1))]);
        place.run(&[&TRAIN[..], &["--dry-run"]].concat().into_iter().chain(settings).collect::<Vec<_>>())
    };
    for (settings, expected) in [
        (&["model.adapter=run/2-dpo/adapter"][..], true),
        (&["model.adapter=[run/1-preferred_ft/adapter, run/2-dpo/adapter]"], false),
    ] {
        let ran = set(settings);
        assert_eq!((ran.code, said(&ran)), (Some(0), expected), "{settings:?}: {}", ran.stderr);
    }
}

#[test]
fn the_settings_of_several_adapters_are_those_of_the_last_one() {
    let place = Place::new();
    let losses = [("a", "ipo"), ("b", "hinge")];
    for (name, loss) in losses {
        place.llama_recipe(&[
            ("output_dir", json!(name)),
            ("objective.loss_type", json!(loss)),
            ("train.max_steps", json!(1)),
        ]);
        place.run(&TRAIN).ok();
    }
    stacked(&place);
    let (base, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let (base, data) = (base.to_str().unwrap(), data.to_str().unwrap());
    let eval = |first: &str, second: &str| {
        place.run(&["eval", "--base", base, "--data", data, "--adapter", first, "--adapter", second])
    };
    for (first, second, loss) in [("a", "b", "(hinge, "), ("b", "a", "(ipo, ")] {
        let ran = eval(first, second);
        let said = format!("those of {second}, the last one, are used");
        assert!(ran.stderr.contains(&said), "{}", ran.stderr);
        assert!(ran.stdout.contains(loss), "{loss} in {}", ran.stdout);
    }
    // It is known which of two stages is the last one.
    let [sft, dpo] = ["run/1-preferred_ft", "run/2-dpo"];
    for (first, second) in [(sft, dpo), (dpo, sft)] {
        let ran = eval(first, second);
        assert!(
            !ran.stderr.contains("different losses") && ran.stdout.contains("(sigmoid, "),
            "{}",
            ran.stdout
        );
    }
}

#[test]
fn a_program_follows_the_stages_and_gets_the_adapter_of_the_whole_run() {
    let place = Place::new();
    recipe(&place, "stack");
    let lines = place.run(&[&TRAIN[..], &["--json"]].concat()).json();
    let of = |kind: &str| lines.iter().filter(|line| line["event"] == kind).collect::<Vec<_>>();
    let ends: Vec<_> = of("stage_finished").iter().map(|line| (&line["stage"], &line["adapter"])).collect();
    let expected = ["1-preferred_ft", "2-dpo", "3-again"].map(|stage| json!(format!("run/{stage}/adapter")));
    assert_eq!(ends.iter().map(|(_, adapter)| (*adapter).clone()).collect::<Vec<_>>(), expected);
    let names: Vec<_> = ends.iter().map(|(stage, _)| stage.as_str().unwrap()).collect();
    assert_eq!(names, ["preferred_ft", "dpo", "again"]);
    let (finished, last) = (of("finished"), lines.last().unwrap());
    assert_eq!((finished.len(), &last["event"]), (1, &json!("finished")));
    assert_eq!((&last["run"], &last["adapter"]), (&json!("run"), &json!("run/adapter")));
    let end = *of("stage_finished").last().unwrap();
    assert_eq!((&last["step"], &last["evaluation"]), (&end["step"], &end["evaluation"]));
    for name in names {
        let own = of("metrics").iter().filter(|line| line["stage"] == name).count();
        let index = ["preferred_ft", "dpo", "again"].iter().position(|stage| *stage == name).unwrap();
        assert_eq!(own, place.metrics(&format!("run/{}-{name}", index + 1)).len(), "{name}");
    }
    assert!(of("metrics").iter().all(|line| line["stage"].is_string()));
}

/// The recipe without the shape of the adapter.
fn without_shape(place: &Place, init_from: &str) {
    let mut recipe: serde_yaml::Value = serde_yaml::from_slice(&place.read("run.yaml")).unwrap();
    let lora = recipe["lora"].as_mapping_mut().unwrap();
    for key in ["r", "lora_alpha"] {
        lora.remove(key).unwrap();
    }
    lora.insert("init_from".into(), init_from.into());
    place.write("run.yaml", serde_yaml::to_string(&recipe).unwrap());
}

#[test]
fn a_run_that_continues_an_adapter_notes_its_shape_and_refuses_another() {
    let place = Place::new();
    let shape = [("lora.use_rslora", json!(true)), ("lora.target_modules", json!(["q_proj", "down_proj"]))];
    place.llama_recipe(&[&shape[..], &[("output_dir", json!("first"))]].concat());
    place.run(&TRAIN).ok();
    place.llama_recipe(&[("data.eval", json!(0.3))]);
    without_shape(&place, "first");
    let train = |settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        place.run(&TRAIN.into_iter().chain(settings).collect::<Vec<_>>())
    };
    for (setting, words) in [
        (
            "lora.r=16",
            "--set lora.r=16: lora.r is 16, and the run continues the adapter first (lora.init_from), which has its own, 3;",
        ),
        ("lora.lora_alpha=32", "lora.lora_alpha is 32.0"),
        ("lora.use_rslora=false", "lora.use_rslora is false"),
        ("lora.target_modules=all-linear", "which has its own, [\"down_proj\",\"q_proj\"]"),
        ("lora.rank_pattern.q_proj=8", "lora.rank_pattern is {\"q_proj\":8}"),
    ] {
        let ran = train(&[setting]);
        assert_eq!(ran.code, Some(2), "{setting}: {}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("remove it"), "{words} in {}", ran.stderr);
        assert!(!place.path("run").exists());
    }
    // The same in other words.
    let same = [
        "lora.r=3",
        "lora.target_modules='.*(q|down)_proj'",
        "lora.layers_to_transform=null",
        "lora.alpha_pattern={q_proj: 5}",
    ];
    train(&[&same[..], &["output_dir=same"]].concat()).ok();
    let ran = train(&[]);
    let against = "by reward, against the run's own reference";
    assert!(ran.stdout.contains(against), "{}", ran.stdout);
    ran.ok();
    let written: serde_yaml::Value = serde_yaml::from_slice(&place.read("run/config.yaml")).unwrap();
    let lora = &written["lora"];
    assert_eq!((lora["r"].as_u64(), lora["lora_alpha"].as_f64()), (Some(3), Some(5.0)));
    assert_eq!(lora["use_rslora"].as_bool(), Some(true));
    let names: Vec<_> =
        lora["target_modules"].as_sequence().unwrap().iter().map(|name| name.as_str()).collect();
    assert_eq!(names, [Some("down_proj"), Some("q_proj")]);
    // What a run has written is a configuration again, and the run can be resumed.
    let again = ["train", "-c", "run/config.yaml", "--set", "output_dir=again"];
    place.run(&again).ok();
    assert_eq!(place.adapter("again"), place.adapter("run"));
    place.run(&["train", "--resume", "run", "--set", "train.max_steps=8"]).ok();
    // Stages note it too.
    let stages = json!(["sft", {"name": "dpo", "adapter": "stack", "lora": {"r": 2}}]);
    place.llama_recipe(&[("output_dir", json!("staged")), ("train.max_steps", json!(2)), ("stages", stages)]);
    without_shape(&place, "first");
    place.run(&TRAIN).ok();
    let written: serde_yaml::Value = serde_yaml::from_slice(&place.read("staged/config.yaml")).unwrap();
    assert_eq!(written["stages"][0]["lora"]["r"].as_u64(), Some(3));
    assert_eq!(written["stages"][1]["lora"]["r"].as_u64(), Some(2));
    place.run(&["train", "-c", "staged/config.yaml", "--set", "output_dir=restaged"]).ok();
    assert_eq!(place.adapter("restaged"), place.adapter("staged"));
    place.run(&["train", "--resume", "staged"]).ok();
}

#[test]
fn adapters_of_any_kind_are_used_above_one_another_as_they_were_trained() {
    let place = Place::new();
    let (base, data) = (fixture("models/llama"), fixture("pairs.jsonl"));
    let (base, data) = (base.to_str().unwrap(), data.to_str().unwrap());
    let train = |settings: &[(&str, serde_json::Value)]| {
        let common = [("train.max_steps", json!(2)), ("train.learning_rate", json!(2e-2))];
        place.llama_recipe(&[&common[..], settings].concat());
        place.run(&TRAIN)
    };
    let score = |base: &str, adapters: &[&str]| {
        let named = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        let args: Vec<&str> = ["score", "--base", base, "--data", data].into_iter().chain(named).collect();
        place.run(&args).json()
    };
    let numbers = |lines: &[serde_json::Value], keys: [&str; 2]| -> Vec<f64> {
        lines.iter().flat_map(|line| keys.map(|key| line[key].as_f64().unwrap())).collect()
    };
    let (sides, references) = (["chosen_logp", "rejected_logp"], ["ref_chosen_logp", "ref_rejected_logp"]);
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let bare = numbers(&score(base, &[]), sides);
    for (below, lora) in [
        ("dora", json!({"r": 3, "use_dora": true})),
        ("whole", json!({"r": 3, "modules_to_save": ["embed_tokens", "lm_head"]})),
        ("rows", json!({"r": 3, "trainable_token_indices": [3, 4]})),
        ("prefix", json!({"prefix_tuning": {"num_virtual_tokens": 3}})),
    ] {
        train(&[("output_dir", json!(below)), ("lora", lora)]).ok();
        let above = format!("above-{below}");
        let ran = train(&[
            ("output_dir", json!(above)),
            ("model.adapter", json!(format!("{below}/adapter"))),
            ("data.eval", json!(data)),
            ("train.eval_steps", json!(1)),
        ]);
        let next = ran.stderr.lines().last().unwrap_or_default().trim().to_string();
        ran.ok();
        let both = score(base, &[below, &above]);
        // As the run itself had it.
        let metrics = place.metrics(&above);
        let last = metrics.iter().rev().find_map(|line| line["eval_logps/chosen"].as_f64()).unwrap();
        let chosen = both.iter().map(|line| line["chosen_logp"].as_f64().unwrap()).sum::<f64>();
        assert!((chosen / both.len() as f64 - last).abs() < 1e-3, "{below}: {last}");
        // The reference of the commands is the base, whatever the kinds.
        assert!(apart(&numbers(&both, references), &bare) < 1e-9, "{below}");
        assert!(apart(&numbers(&both, sides), &numbers(&score(base, &[&above]), sides)) > 1e-3, "{below}");
        let named = ["--base", base, "--adapter", below, "--adapter", &above];
        let generate = ["generate", "--prompt", "a b", "--max-new-tokens", "2", "--compare"];
        for command in [&["eval", "--data", data][..], &generate[..]] {
            place.run(&[command, &named[..]].concat()).ok();
        }
        if below == "prefix" {
            assert!(next.starts_with("dpo-lora eval "), "{next}");
            continue;
        }
        // The command that the run prints.
        let merged = format!("{above}/merged");
        assert!(next.starts_with("dpo-lora merge ") && next.ends_with(&merged), "{next}");
        let words: Vec<&str> = next.split_whitespace().skip(1).collect();
        place.run(&words).ok();
        assert!(apart(&numbers(&score(&merged, &[]), sides), &numbers(&both, sides)) < 1e-3, "{below}");
    }
}
