//! `merge`: the merged model equals the base with its adapter.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::{Place, copy, finish};

fn text(path: &str) -> String {
    fixture(path).to_str().unwrap().to_string()
}

fn logps(lines: &[Value]) -> Vec<f64> {
    let sides = ["chosen_logp", "rejected_logp"];
    lines.iter().flat_map(|line| sides.map(|side| line[side].as_f64().unwrap())).collect()
}

fn assert_near(merged: &[f64], want: &[f64], bound: f64, what: &str) {
    assert_eq!(merged.len(), want.len());
    for (a, b) in merged.iter().zip(want) {
        assert!((a - b).abs() <= bound * b.abs(), "{what}: {a} against {b}");
    }
}

#[test]
fn merged_scores_as_base_and_adapter_do() {
    // A plain model, transposed weights (Conv1D), fused projections, tied and scaled embeddings, and several files.
    for name in ["llama", "gpt2", "phi3", "gemma2", "llama-sharded"] {
        let place = Place::new();
        let base = text(&format!("models/{name}"));
        let adapter = text(&format!("models/{name}/adapters/plain"));
        let data = text("pairs.jsonl");
        let merge = ["merge", "--dtype", "f32", "--base", &base, "--adapter", &adapter, "--output", "merged"];
        let ran = place.run(&merge);
        assert!(ran.stderr.contains("maximum |Δlogit|"), "{name}: {}", ran.stderr);
        assert_eq!(ran.ok(), "");
        let score = |model: &[&str]| {
            place.run(&[&["score", "--dtype", "f32", "--data", &data, "--base"], model].concat()).json()
        };
        let with = score(&[&base, "--adapter", &adapter]);
        let (merged, bare) = (score(&["merged"]), score(&[&base]));
        assert_near(&logps(&merged), &logps(&with), 1e-4, name);
        let moved = logps(&bare).iter().zip(logps(&with)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(moved > 0.1, "{name}: the adapter does nothing");

        let again = place.run(&merge);
        assert_eq!((again.code.unwrap() > 0, again.stdout.as_str()), (true, ""), "{name}");
        assert!(again.stderr.contains("merged") && again.stderr.contains("--force"), "{}", again.stderr);
        let file = place.run(&["merge", "--base", &base, "--adapter", &adapter, "--output", "merged.gguf"]);
        assert_eq!(file.code, Some(2), "{}", file.stderr);
        assert!(file.stderr.contains("--format gguf") && !place.path("merged.gguf").exists());
    }
}

#[test]
fn weights_scale_and_add() {
    let place = Place::new();
    let (base, data) = (text("models/llama"), text("pairs.jsonl"));
    let (one, two) = (text("models/llama/adapters/plain"), text("models/llama/adapters/rslora"));
    let merge = |adapters: &[&str], weights: &str, output: &str| {
        let mut args = vec!["merge", "--base", &base, "--output", output, "--weights", weights];
        adapters.iter().for_each(|adapter| args.extend(["--adapter", adapter]));
        place.run(&args)
    };
    merge(&[&one, &two], "1,-1", "sum").ok();
    merge(&[&one], "1", "one").ok();
    // What was added is subtracted again: one + two − two, in two merges.
    merge(&[&one, &two], "1,1", "both").ok();
    let minus = ["merge", "--base", "both", "--adapter", &two, "--weights=-1", "--output", "back"];
    let refused = place.run(&minus);
    assert_eq!(refused.code, Some(0), "{}", refused.stderr);
    let score = |base: &str| logps(&place.run(&["score", "--base", base, "--data", &data]).json());
    assert_near(&score("back"), &score("one"), 1e-4, "one + two − two");
    assert_ne!(score("sum"), score("both"));

    let wrong = merge(&[&one, &two], "0.5", "wrong");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), ""));
    assert!(wrong.stderr.contains("1 factors for 2 adapters"), "{}", wrong.stderr);
    assert!(!place.path("wrong").exists());
}

#[test]
fn bf16_says_what_rounding_cost() {
    let place = Place::new();
    copy(&fixture("models/qwen2"), &place.path("model"));
    let ran = place.run(&[
        "merge",
        "--base",
        "model",
        "--adapter",
        "model/adapters/plain",
        "--output",
        "merged",
        "--dtype",
        "bf16",
    ]);
    assert!(ran.stderr.contains("rounding moved a weight by"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("by 0.00e0"), "{}", ran.stderr);
    ran.ok();
    let kind = place.run(&["inspect", "merged", "--json"]).json().remove(0);
    assert_eq!(kind["dtype"], "bf16");
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns the share of the adapter's effect that the program reports, in per cent.
fn share(told: &str) -> f64 {
    let line = told
        .lines()
        .find(|line| line.starts_with("effect of the adapter that survives"))
        .unwrap_or_else(|| panic!("{told}"));
    line.split(':').nth(1).unwrap().trim().split(' ').next().unwrap().parse().unwrap()
}

/// A template that no fixture has.
const OWN: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";

#[test]
fn the_template_of_the_training_goes_into_the_model() {
    let place = Place::new();
    let (base, foreign) = (text("models/llama"), text("models/llama/adapters/plain"));
    place.llama_recipe(&[("data.chat_template", json!(OWN)), ("train.learning_rate", json!(5e-3))]);
    place.run(&["train", "-q", "-c", "run.yaml"]).ok();
    copy(foreign.as_ref(), &place.path("foreign"));
    place.write("foreign/chat_template.jinja", OWN);
    let template = |directory: &str| -> Value {
        assert!(!place.path(&format!("{directory}/chat_template.jinja")).exists(), "{directory}");
        let bytes = place.read(&format!("{directory}/tokenizer_config.json"));
        serde_json::from_slice::<Value>(&bytes).unwrap()["chat_template"].clone()
    };
    let merge = |base: &str, adapters: &[&str], output: &str, more: &[&str]| {
        let mut args = vec!["merge", "--base", base, "--output", output];
        adapters.iter().for_each(|adapter| args.extend(["--adapter", adapter]));
        place.run(&[&args[..], more].concat())
    };
    let said = "its chat template is that with which";
    // The loss of `run` is known, and that of `plain` is not: `run` counts as the one that was trained last.
    for (output, adapters, own) in [
        ("one", vec!["run"], true),
        ("two", vec!["run", &foreign], true),
        ("three", vec!["foreign"], true),
        ("four", vec![foreign.as_str()], false),
    ] {
        let ran = merge(&base, &adapters, output, &[]);
        assert_eq!(ran.stderr.contains(said), own, "{adapters:?}: {}", ran.stderr);
        // The pairs of a run are compared in its template.
        assert_eq!(ran.stderr.contains("pairs of"), adapters[0] == "run", "{adapters:?}: {}", ran.stderr);
        ran.ok();
        assert_eq!(template(output) == OWN, own, "{adapters:?}");
    }
    let back = merge("one", &["run"], "back", &["--unmerge"]);
    assert!(!back.stderr.contains(said), "{}", back.stderr);
    back.ok();
    merge(&base, &["run"], "model.gguf", &["--format", "gguf"]).ok();
    let gguf = dpo_lora::weights::gguf::GgufFile::open(&place.path("model.gguf")).unwrap();
    assert_eq!(gguf.metadata().text("tokenizer.chat_template").unwrap(), Some(OWN));
}

#[test]
fn other_tokens_beside_an_adapter_are_told() {
    let place = Place::new();
    let base = text("models/llama");
    copy(text("models/llama/adapters/plain").as_ref(), &place.path("foreign"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture(&format!("models/llama/{name}")), place.path(&format!("foreign/{name}")))
            .unwrap();
    }
    let merge = |output: &str| {
        let args = ["merge", "--base", &base, "--adapter", "foreign", "--output", output, "--no-verify"];
        place.run(&args).stderr
    };
    let words = "the tokenizer beside foreign has a token that the base's has not (the first is \"<new>\"";
    assert!(!merge("same").contains("the tokenizer beside"));
    place.edit("foreign/tokenizer.json", |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = json!(320);
        token["content"] = json!("<new>");
        added.push(token);
    });
    let told = merge("other");
    assert!(told.contains(words), "{told}");
}

#[test]
fn code_of_the_model_comes_with_it() {
    let place = Place::new();
    let (base, adapter) = (text("cases/merge-auto-map/base"), text("cases/merge-auto-map/adapter"));
    copy(base.as_ref(), &place.path("base"));
    for (name, content) in [
        ("additional_chat_templates/tool_use.jinja", "{{ messages }}"),
        ("LICENSE", "free"),
        ("tekken.json", "{}"),
    ] {
        std::fs::create_dir_all(place.path("base/additional_chat_templates")).unwrap();
        place.write(&format!("base/{name}"), content);
    }
    place.run(&["merge", "--base", "base", "--adapter", &adapter, "--output", "merged", "--force"]).ok();
    for name in
        ["configuration_tiny.py", "additional_chat_templates/tool_use.jinja", "LICENSE", "tekken.json"]
    {
        assert_eq!(place.read(&format!("merged/{name}")), place.read(&format!("base/{name}")), "{name}");
    }
    let config: Value = serde_json::from_slice(&place.read("merged/config.json")).unwrap();
    assert_eq!(config["auto_map"]["AutoConfig"], "configuration_tiny.TinyConfig");
}

#[test]
fn what_llama_cpp_cannot_be_told_is_refused_before_anything_is_written() {
    let place = Place::new();
    copy(&fixture("cases/gguf-yarn-attention-factor/base"), &place.path("base"));
    let adapter = text("cases/gguf-yarn-attention-factor/a");
    place.edit("base/config.json", |config| config["rope_parameters"]["truncate"] = false.into());
    let merge = [
        "merge",
        "--base",
        "base",
        "--adapter",
        &adapter,
        "--format",
        "gguf",
        "--output",
        "m.gguf",
        "--force",
    ];
    let ran = place.run(&merge);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("rope_scaling.truncate false"), "{}", ran.stderr);
    assert_eq!(names(&place.path(".")), ["base"]);
    place.edit("base/config.json", |config| config["rope_parameters"]["truncate"] = true.into());
    let ran = place.run(&merge);
    assert!(ran.stderr.contains("verified"), "{}", ran.stderr);
    ran.ok();
}

#[test]
fn a_stored_head_that_the_configuration_ties_is_not_lost() {
    let place = Place::new();
    let (base, adapter) = (text("cases/tied-head-stored-gguf/base"), text("cases/tied-head-stored-gguf/a"));
    for more in [vec!["--format", "gguf", "--output", "m.gguf"], vec!["--output", "m"]] {
        let ran = place.run(&[&["merge", "--base", &base, "--adapter", &adapter], &more[..]].concat());
        assert!(ran.code == Some(1) || ran.code == Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("tie_word_embeddings") && ran.stderr.contains("lm_head"),
            "{}",
            ran.stderr
        );
        assert_eq!(names(&place.path(".")), Vec::<String>::new());
    }
}

#[test]
fn how_much_of_the_effect_survives_is_told_and_a_lost_one_fails() {
    let place = Place::new();
    // An 8-bit base and an adapter that changes its weights by less than half a step: stored in 8 bits again, the
    // change is rounded away.
    let (base, data) = (text("gguf/qwen2.gguf"), text("pairs.jsonl"));
    place.recipe(base.as_ref(), data.as_ref(), &[]);
    place.run(&["train", "-q", "-c", "run.yaml"]).ok();
    let merge = |output: &str, dtype: &str, more: &[&str]| {
        let args = [
            "merge",
            "--base",
            &base,
            "--adapter",
            "run/adapter",
            "--format",
            "gguf",
            "--dtype",
            dtype,
            "--output",
            output,
        ];
        place.run(&[&args[..], more].concat())
    };
    let whole = merge("f16.gguf", "f16", &[]);
    let of_run = format!("pairs of {data} and");
    assert!(whole.stderr.contains(&of_run), "the run's own pairs: {}", whole.stderr);
    // Attention with a quantised base is bf16, which changes log-probs by a hundredth of the adapter's effect.
    assert!((share(&whole.stderr) - 100.0).abs() < 10.0, "{}", whole.stderr);
    whole.ok();
    let small = merge("q8.gguf", "q8_0", &[]);
    assert_eq!(small.code, Some(1), "{}", small.stderr);
    assert!(
        small.stderr.contains("--dtype bf16 or f16") && small.stderr.contains("export"),
        "{}",
        small.stderr
    );
    assert!(share(&small.stderr) < 40.0 && !place.path("q8.gguf").exists(), "{}", small.stderr);
    let kept = merge("q8.gguf", "q8_0", &["--force"]);
    assert!(
        kept.stderr.contains("warning:") && kept.stderr.contains("kept because of --force"),
        "{}",
        kept.stderr
    );
    kept.ok();
    assert!(place.path("q8.gguf").exists());
    // Verification on the user's own pairs.
    let given = merge("f32.gguf", "f32", &["--data", &data]);
    assert!(given.stderr.contains(&of_run), "{}", given.stderr);
    given.ok();
    let hidden = names(&place.path(".")).into_iter().filter(|name| name.starts_with('.')).collect::<Vec<_>>();
    assert_eq!(hidden, Vec::<String>::new());
    let wrong = place.run(&[
        "merge",
        "--base",
        &base,
        "--adapter",
        "run/adapter",
        "--dtype",
        "q4_k_m",
        "--output",
        "x",
    ]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--format gguf"), "{}", wrong.stderr);
}

#[test]
fn super_blocks_are_written_and_read() {
    let place = Place::new();
    let (base, data) = (text("gguf/llama-k.gguf"), text("pairs.jsonl"));
    place.recipe(base.as_ref(), data.as_ref(), &[("train.learning_rate", 2e-2.into())]);
    place.run(&["train", "-q", "-c", "run.yaml"]).ok();
    for (dtype, wanted) in [("q4_k_m", "Q6_K+Q4_K"), ("q6_k", "Q6_K")] {
        let merge =
            ["merge", "--base", &base, "--adapter", "run/adapter", "--format", "gguf", "--dtype", dtype];
        let ran = place.run(&[&merge[..], &["--output", dtype]].concat());
        assert!(share(&ran.stderr) > 90.0, "{dtype}: {}", ran.stderr);
        ran.ok();
        let inspected = &place.run(&["inspect", "--json", dtype]).json()[0];
        assert_eq!(inspected["dtype"], wanted);
    }
}

#[test]
fn an_adapter_that_does_nothing_is_said_to_do_nothing() {
    let place = Place::new();
    let (base, adapter) = (text("models/llama"), text("models/llama/adapters/plain"));
    let ran =
        place.run(&["merge", "--base", &base, "--adapter", &adapter, "--weights", "0", "--output", "merged"]);
    assert!(ran.stderr.contains("the adapter changes nothing"), "{}", ran.stderr);
    ran.ok();
}

#[cfg(unix)]
#[test]
fn an_interrupted_merge_leaves_nothing() {
    for signal in ["-INT", "-TERM"] {
        let place = Place::new();
        std::fs::create_dir(place.path("out")).unwrap();
        let adapter = format!("{}/adapters/tiny-reviews-favourable", env!("CARGO_MANIFEST_DIR"));
        let merge = ["merge", "--base", "tiny-reviews", "--adapter", &adapter, "--output", "out/merged"];
        let child = place.command(&merge).spawn().unwrap();
        // The merged model is verified under its temporary name, which takes a while.
        let begun = std::time::Instant::now();
        while names(&place.path("out")).is_empty() && begun.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let ran = finish(child);
        assert!(matches!(ran.code, Some(130 | 143)), "{:?}: {}", ran.code, ran.stderr);
        assert_eq!(names(&place.path("out")), Vec::<String>::new(), "{}", ran.stderr);
    }
}

#[test]
fn a_gguf_model_is_a_base_again() {
    let place = Place::new();
    let (base, data) = (text("models/llama"), text("pairs.jsonl"));
    let adapter = text("models/llama/adapters/rslora");
    let with = ["--base", &base, "--adapter", &adapter];
    let merge = |output: &str, dtype: &str| {
        place.run(&[&["merge", "--format", "gguf", "--dtype", dtype, "--output", output], &with[..]].concat())
    };
    let ran = merge("f32.gguf", "f32");
    assert!(ran.stderr.contains("merged 21 modules into f32.gguf"), "{}", ran.stderr);
    assert!(ran.stderr.contains("verified") && ran.stderr.contains("bound 1e-4"), "{}", ran.stderr);
    ran.ok();
    let score = |model: &[&str]| logps(&place.run(&[&["score", "--data", &data], model].concat()).json());
    assert_near(&score(&["--base", "f32.gguf"]), &score(&with), 1e-4, "gguf");
    merge("q8.gguf", "q8_0").ok();
    let again = merge("f32.gguf", "f32");
    assert!(again.code == Some(2) && again.stderr.contains("--force"), "{}", again.stderr);
    let wrong = place.run(&[&["merge", "--dtype", "q8_0", "--output", "x"], &with[..]].concat());
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--format gguf"), "{}", wrong.stderr);
    // A GGUF adapter is accepted wherever adapters are read.
    place.run(&[&["export", "--format", "gguf", "--output", "a.gguf"], &with[..]].concat()).ok();
    assert_near(&score(&["--base", &base, "--adapter", "a.gguf"]), &score(&with), 1e-4, "GGUF adapter");
    place.recipe(
        base.as_ref(),
        data.as_ref(),
        &[("lora.init_from", "a.gguf".into()), ("model.adapter", "a.gguf".into())],
    );
    // It has a rank of its own.
    let refused = place.run(&["train", "-c", "run.yaml"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("lora.r is 3"), "{}", refused.stderr);
    let mut recipe: serde_yaml::Value = serde_yaml::from_slice(&place.read("run.yaml")).unwrap();
    let lora = recipe["lora"].as_mapping_mut().unwrap();
    for key in ["r", "lora_alpha"] {
        lora.remove(key).unwrap();
    }
    place.write("run.yaml", serde_yaml::to_string(&recipe).unwrap());
    place.run(&["train", "-c", "run.yaml"]).ok();
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_the_work() {
    let place = Place::new();
    let (base, adapter) = (text("models/llama"), text("models/llama/adapters/plain"));
    let pairs = text("pairs.jsonl");
    let merge = ["merge", "--base", &base, "--adapter", &adapter];
    let score = ["score", "--base", &base, "--data", &pairs];
    place.write("afile", "x");
    #[cfg(unix)]
    std::os::unix::fs::symlink("gone/x", place.path("alink")).unwrap();
    for (command, output, words) in [
        (&merge[..], &["--output", "afile", "--force"][..], "the output afile is a file"),
        (&merge, &["--output-adapter", "afile", "--force"], "the output afile is a file"),
        #[cfg(unix)]
        (&merge, &["--output", "alink"], "the output alink is a link to gone/x, which is not there"),
        #[cfg(unix)]
        (&merge, &["--output-adapter", "alink"], "the output alink is a link to gone/x"),
        (
            &merge,
            &["--format", "gguf", "--output", ".", "--force"],
            "the output . is a directory; name a file",
        ),
        (&score, &["--output", "."], "the output . is a directory; name a file"),
    ] {
        let ran = place.run(&[command, output].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{output:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words) && !ran.stderr.contains("merged"), "{output:?}: {}", ran.stderr);
    }
    assert_eq!(place.read("afile"), b"x");
}
