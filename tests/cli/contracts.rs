//! Machine-readable output: it has the promised fields, and they are consistent.

use serde_json::Value;

use crate::common::fixture;
use crate::common::program::{Place, finish};

fn text(path: &str) -> String {
    fixture(path).to_str().unwrap().to_string()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

#[test]
fn score_and_eval_agree() {
    let place = Place::new();
    let (base, adapter, data) =
        (text("models/llama"), text("models/llama/adapters/plain"), text("pairs.jsonl"));
    let on = ["--base", &base, "--adapter", &adapter, "--data", &data];
    let scored = place.run(&[&["score"], &on[..]].concat()).json();
    assert_eq!(scored.len(), 9);
    for (i, line) in scored.iter().enumerate() {
        assert_eq!(line["index"], i);
        assert_eq!(
            keys(line),
            [
                "index",
                "chosen_logp",
                "rejected_logp",
                "ref_chosen_logp",
                "ref_rejected_logp",
                "chosen_tokens",
                "rejected_tokens"
            ]
        );
    }
    let to_file = place.run(&[&["score"], &on[..], &["--output", "scores.jsonl"]].concat());
    assert_eq!(to_file.ok(), "");
    let file = String::from_utf8(place.read("scores.jsonl")).unwrap();
    let file: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(file, scored);

    // Without the adapter the policy is the reference.
    let off = place.run(&["score", "--base", &base, "--data", &data]).json();
    for (off, on) in off.iter().zip(&scored) {
        assert_eq!(off["chosen_logp"], off["ref_chosen_logp"]);
        assert_eq!(off["ref_rejected_logp"], on["ref_rejected_logp"]);
        assert_ne!(off["chosen_logp"], on["chosen_logp"]);
    }

    let found = place.run(&[&["eval", "--json"], &on[..]].concat()).json().remove(0);
    for key in [
        "pairs",
        "loss",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "reward_margin",
        "reward_chosen",
        "reward_rejected",
        "logp_chosen",
        "logp_rejected",
    ] {
        assert!(found[key].is_number(), "{key}");
    }
    let mean = |f: &dyn Fn(&Value) -> f64| scored.iter().map(f).sum::<f64>() / 9.0;
    let gain = |line: &Value, side: &str| {
        0.1 * (number(line, &format!("{side}_logp")) - number(line, &format!("ref_{side}_logp")))
    };
    let margin = mean(&|line| gain(line, "chosen") - gain(line, "rejected"));
    let accuracy = mean(&|line| f64::from(u8::from(gain(line, "chosen") > gain(line, "rejected"))));
    assert!((number(&found, "reward_margin") - margin).abs() < 1e-9);
    assert!((number(&found, "logp_chosen") - mean(&|line| number(line, "chosen_logp"))).abs() < 1e-9);
    assert_eq!((number(&found, "pairs"), number(&found, "accuracy")), (9.0, accuracy));
    let person = place.run(&[&["eval"], &on[..]].concat()).ok();
    assert!(person.contains(&format!("accuracy           {:.1} %", 100.0 * accuracy)), "{person}");
}

#[test]
fn generate_compares_repeats_and_stops() {
    let place = Place::new();
    let (base, adapter) = (text("models/llama"), text("models/llama/adapters/plain"));
    let generate = |more: &[&str]| {
        let fixed = [
            "generate",
            "--json",
            "--no-chat",
            "--base",
            &base,
            "--adapter",
            &adapter,
            "--max-new-tokens",
            "24",
        ];
        place.run(&[&fixed[..], more].concat()).json()
    };
    let greedy = generate(&["--prompt", "The river", "--prompt", "A cat", "--compare"]);
    let order: Vec<_> =
        greedy.iter().map(|o| (o["prompt"].as_str().unwrap(), o["adapter"].as_str().unwrap())).collect();
    assert_eq!(order, [("The river", "off"), ("The river", "on"), ("A cat", "off"), ("A cat", "on")]);
    let order =
        ["prompt", "completion", "adapter", "tokens", "finish_reason", "prompt_index", "completion_index"];
    assert_eq!(keys(&greedy[0]), [&order[..], &["token_ids", "logps", "sampling_logps"]].concat());
    assert_ne!(greedy[0]["completion"], greedy[1]["completion"], "the adapter changes nothing");
    assert_eq!(generate(&["--prompt", "The river"]), [greedy[1].clone()]);

    let warm =
        |seed| generate(&["--prompt", "The river", "--temperature", "1", "--top-k", "40", "--seed", seed]);
    assert_eq!(warm("3"), warm("3"));
    assert_ne!(warm("3"), warm("4"));
    // A temperature so low that f32 cannot divide by it.
    assert_eq!(generate(&["--prompt", "The river", "--temperature", "1e-300"]), [greedy[1].clone()]);

    let whole = greedy[1]["completion"].as_str().unwrap();
    let middle: String = whole.chars().skip(whole.chars().count() / 2).take(3).collect();
    let stopped = generate(&["--prompt", "The river", "--stop", &middle]).remove(0);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["completion"].as_str().unwrap(), whole.split_once(&middle).unwrap().0);

    place.write("prompts.jsonl", "{\"prompt\": \"The river\"}\n\n{\"prompt\": \"A cat\"}\n");
    let listed = generate(&["--prompts", "prompts.jsonl"]);
    assert_eq!(listed, [greedy[1].clone(), greedy[3].clone()]);
}

#[test]
fn prompts_without_room_for_an_answer_are_named_with_their_place() {
    let place = Place::new();
    let long = "the river ".repeat(300);
    place.write("prompts.txt", format!("A cat\n\n{long}\n{long}\n"));
    let refused = |asked: &[&str]| {
        let ran =
            place.run(&[&["generate", "--no-chat", "--base", &text("models/llama")][..], asked].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(" tokens, and the model has 256 positions"), "{}", ran.stderr);
        ran.stderr
    };
    let told = refused(&["--prompts", "prompts.txt"]);
    for place in ["prompts.txt:3: the prompt has", "prompts.txt:4: the prompt has"] {
        assert!(told.contains(place), "{told}");
    }
    assert!(refused(&["--prompt", &long]).contains("--prompt: the prompt has"));
    assert!(refused(&["--prompt", "A cat", "--prompt", &long]).contains("--prompt number 2: the prompt has"));
}

#[test]
fn options_of_sampling_without_a_temperature_are_told_of() {
    let place = Place::new();
    let asked = ["generate", "--base", "tiny-reviews", "--prompt", "x", "--max-new-tokens", "1"];
    for option in [["--top-p", "0.5"], ["--top-k", "3"]] {
        let ran = place.run(&[&asked[..], &option].concat());
        let said = format!("warning: {} has no effect at the default temperature", option[0]);
        assert!(ran.code == Some(0) && ran.stderr.contains(&said), "{}", ran.stderr);
        let ran = place.run(&[&asked[..], &option, &["--temperature", "1"]].concat());
        assert!(ran.code == Some(0) && !ran.stderr.contains("no effect"), "{}", ran.stderr);
    }
}

#[test]
fn inspect_tells_base_adapter_and_run() {
    let place = Place::new();
    place.llama_recipe(&[]);
    place.run(&["train", "-c", "run.yaml"]).ok();
    let inspect = |path: &str| place.run(&["inspect", path, "--json"]).json().remove(0);
    let base = inspect(&text("models/llama"));
    assert_eq!(
        (&base["kind"], &base["layers"], &base["vocab_size"]),
        (&"base".into(), &3.into(), &320.into())
    );
    let adapter = inspect("run/adapter");
    assert_eq!((&adapter["kind"], &adapter["r"]), (&"adapter".into(), &3.into()));
    assert_eq!(adapter["lora_alpha"], 5.0);
    assert_eq!(adapter["modules"], 21, "seven linear modules in each of three layers");
    assert_eq!(adapter["base_fingerprint"], base["fingerprint"]);
    let run = inspect("run");
    assert_eq!((&run["kind"], &run["step"], &run["adapter"]), (&"run".into(), &6.into(), &true.into()));
    let person = place.run(&["inspect", "run/adapter"]).ok();
    assert!(person.contains("lora_alpha") && person.contains("‖ΔW‖"), "{person}");
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    let place = Place::new();
    place.llama_recipe(&[]);
    let ran = place.run(&["-q", "train", "-c", "run.yaml"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn help_and_completions_are_output_not_errors() {
    let place = Place::new();
    for args in
        [vec!["--help"], vec!["train", "--help"], vec!["--version"], vec!["completions", "bash"], vec!["man"]]
    {
        let ran = place.run(&args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(ran.stdout.contains("dpo-lora"), "{args:?}");
    }
}

/// Every value except the names of this processor's instruction sets gives one error. A lower set gives the scores of
/// the best one, up to rounding.
#[test]
fn the_instruction_set_may_be_asked_for() {
    let place = Place::new();
    for value in ["avx1024", "AVX2", ""] {
        let ran = finish(place.command(&["completions", "bash"]).env("DPO_LORA_ISA", value).spawn().unwrap());
        assert!(ran.code == Some(2) && ran.stdout.is_empty(), "{value}");
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: DPO_LORA_ISA is"), "{lines:?}");
        assert!(lines[0].contains("portable"), "{lines:?}");
    }
    let (base, data) = (text("models/llama"), text("pairs.jsonl"));
    let score = ["score", "--base", &base, "--data", &data];
    let plain = place.run(&score).json();
    let portable = finish(place.command(&score).env("DPO_LORA_ISA", "portable").spawn().unwrap()).json();
    for (plain, portable) in plain.iter().zip(&portable) {
        let off = number(plain, "chosen_logp") - number(portable, "chosen_logp");
        assert!(off.abs() < 1e-3, "{plain} {portable}");
    }
}
