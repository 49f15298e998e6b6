//! Watchdogs, the best model by any metric, and figures from before and after training.

use serde_json::json;

use crate::common::program::Place;

const TRAIN: [&str; 3] = ["train", "-c", "run.yaml"];

#[test]
fn each_watchdog_warns_once_and_not_again_after_a_resume() {
    let place = Place::new();
    place.llama_recipe(&[
        ("train.max_steps", json!(60)),
        ("train.learning_rate", json!(0.5)),
        ("train.lr_scheduler_type", json!("constant")),
        ("train.warmup_steps", json!(0)),
        ("train.save_steps", json!(30)),
        ("objective", json!({"beta": 2.0})),
        ("watch", json!({"max_reward": 0.01, "max_chosen_drop": 0.02, "max_kl": 0.02, "chance_pairs": 64})),
    ]);
    let ran = place.run(&TRAIN);
    for name in ["watch.max_reward", "watch.max_chosen_drop", "watch.max_kl", "which is chance"] {
        assert_eq!(ran.stderr.matches(name).count(), 1, "{name}: {}", ran.stderr);
    }
    // Before the first step, the learning rate alone is told.
    assert_eq!(ran.stderr.matches("the learning rate of 5e-1 is too high").count(), 1, "{}", ran.stderr);
    assert_eq!(ran.warnings().len(), 5, "{}", ran.stderr);
    ran.ok();
    let longer = place.run(&["train", "-c", "run.yaml", "--resume", "--set", "train.max_steps=120"]);
    assert_eq!(longer.warnings(), [""; 0], "{}", longer.stderr);
    longer.ok();
}

#[test]
fn an_ordinary_run_is_not_warned_of_and_one_that_learns_nothing_is() {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(30))]);
    let ran = place.run(&TRAIN);
    assert_eq!(ran.warnings(), [""; 0], "{}", ran.stderr);
    let idle = ["--overwrite", "--set", "train.learning_rate=1e-30", "--set", "watch.chance_pairs=64"];
    let ran = place.run(&[&TRAIN[..], &idle[..]].concat());
    assert_eq!(ran.stderr.matches("which is chance").count(), 1, "{}", ran.stderr);
    ran.ok();
}

#[test]
fn the_best_model_is_that_of_the_metric_asked_for() {
    let evaluations = |metric: &str| {
        let place = Place::new();
        place.llama_recipe(&[
            ("data.eval", json!(0.3)),
            ("train.max_steps", json!(30)),
            ("train.learning_rate", json!(0.05)),
            ("train.lr_scheduler_type", json!("constant")),
            ("train.warmup_steps", json!(0)),
            ("train.eval_steps", json!(1)),
            ("train.load_best_model_at_end", json!(true)),
            ("train.metric_for_best_model", json!(metric)),
        ]);
        let ran = place.run(&TRAIN);
        let stderr = ran.stderr.clone();
        ran.ok();
        let name = if metric.starts_with("eval_") { metric.to_string() } else { format!("eval_{metric}") };
        let found: Vec<(u64, f64)> = place
            .metrics("run")
            .iter()
            .filter_map(|line| Some((line["step"].as_u64()?, line[&name].as_f64()?)))
            .collect();
        let kept = |step: u64| {
            let file = format!("run/checkpoints/step-{step}/adapter/adapter_model.safetensors");
            place.path(&file).exists() && place.read(&file) == place.adapter("run")[1]
        };
        let kept: Vec<u64> = found.iter().map(|(step, _)| *step).filter(|step| kept(*step)).collect();
        (found, kept, stderr)
    };
    // The first of the best values: the smallest for a loss or a KL, otherwise the largest.
    for (metric, sign) in
        [("eval_loss", 1.0), ("rewards/margins", -1.0), ("eval_kl", 1.0), ("eval_logps/rejected", -1.0)]
    {
        let (found, kept, stderr) = evaluations(metric);
        let best = found.iter().copied().min_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1))).unwrap();
        assert_eq!(kept, [best.0], "{metric}: {found:?} {stderr}");
    }
}

#[test]
fn an_unknown_metric_is_refused_with_the_known_ones() {
    let place = Place::new();
    place.llama_recipe(&[
        ("train.metric_for_best_model", json!("eval_los")),
        ("watch", json!({"max_kl": -1})),
    ]);
    let ran = place.run(&TRAIN);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    for part in ["did you mean eval_loss?", "eval_rewards/margins", "watch.max_kl is -1;"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
}

#[test]
fn a_metric_that_the_loss_does_not_report_decides_nothing() {
    let place = Place::new();
    place.llama_recipe(&[
        ("data.eval", json!(0.3)),
        ("objective", json!({"loss_type": "simpo"})),
        ("train.metric_for_best_model", json!("kl")),
        ("train.eval_steps", json!(1)),
    ]);
    for setting in ["train.early_stopping_patience=1", "train.load_best_model_at_end=true"] {
        let ran = place.run(&[&TRAIN[..], &["--overwrite", "--set", setting]].concat());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        let said = "train.metric_for_best_model is kl, which this loss does not report on these records; it reports eval_loss";
        assert!(ran.stderr.contains(said) && ran.stderr.contains("eval_rewards/margins"), "{}", ran.stderr);
    }
    // Without those the metric decides nothing.
    place.run(&[&TRAIN[..], &["--overwrite"]].concat()).ok();
}

#[test]
fn before_is_the_reference_also_on_a_resumed_run() {
    let place = Place::new();
    place.llama_recipe(&[
        ("data.eval", json!(0.5)),
        ("train.max_steps", json!(40)),
        ("train.learning_rate", json!(0.02)),
    ]);
    let first = place.run(&TRAIN).ok();
    let figures = |said: &str| -> (String, String) {
        let line = said.lines().find(|line| line.starts_with("held-out accuracy")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[3].into(), words[7].into())
    };
    let (before, after) = figures(&first);
    assert_ne!(before, after, "the run must move the figure for this test to say anything");
    let again = place.run(&["train", "-c", "run.yaml", "--resume"]).ok();
    assert_eq!(figures(&again), (before, after));
}

#[test]
fn eval_prints_the_kl_it_names() {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(20)), ("train.learning_rate", json!(0.02))]);
    place.run(&TRAIN).ok();
    let yaml: serde_json::Value = serde_yaml::from_slice(&place.read("run.yaml")).unwrap();
    let (base, data) = (yaml["model"]["base"].as_str().unwrap(), yaml["data"]["train"].as_str().unwrap());
    let args = ["--base", base, "--adapter", "run/adapter", "--data", data];
    let found = place.run(&[&["eval", "--json"], &args[..]].concat()).json().remove(0);
    let scores = place.run(&[&["score"], &args[..]].concat()).json();
    let sum = |keys: &[&str]| -> f64 {
        scores.iter().flat_map(|s| keys.iter().map(|key| s[*key].as_f64().unwrap())).sum()
    };
    let lost = sum(&["ref_chosen_logp", "ref_rejected_logp"]) - sum(&["chosen_logp", "rejected_logp"]);
    let near = |key: &str, want: f64| {
        let got = found[key].as_f64().unwrap();
        assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{key}: {got} for {want}");
    };
    near("kl", lost / (2 * scores.len()) as f64);
    near("kl_per_token", lost / sum(&["chosen_tokens", "rejected_tokens"]));
    let table = place.run(&[&["eval"], &args[..]].concat()).ok();
    assert!(table.contains("KL ") && table.contains("nats per completion"), "{table}");
}

/// An adapter is evaluated with the settings with which it was trained, unless others are given.
#[test]
fn eval_takes_loss_beta_and_truncation_from_the_adapter() {
    let place = Place::new();
    place.llama_recipe(&[
        ("train.max_steps", json!(20)),
        ("train.learning_rate", json!(0.02)),
        ("objective.loss_type", json!("ipo")),
        ("objective.beta", json!(0.5)),
        ("data.max_length", json!(12)),
    ]);
    place.run(&TRAIN).ok();
    let yaml: serde_json::Value = serde_yaml::from_slice(&place.read("run.yaml")).unwrap();
    let (base, data) = (yaml["model"]["base"].as_str().unwrap(), yaml["data"]["train"].as_str().unwrap());
    let args = ["--base", base, "--adapter", "run/adapter", "--data", data];
    let eval = |more: &[&str]| place.run(&[&["eval", "--json"], &args[..], more].concat()).json().remove(0);
    let scores = place.run(&[&["score"], &args[..]].concat()).json();
    let number = |line: &serde_json::Value, key: &str| line[key].as_f64().unwrap();
    assert!(scores.iter().all(|line| number(line, "chosen_tokens") <= 12.0), "{scores:?}");
    let mean =
        |of: &dyn Fn(&serde_json::Value) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
    let ratio = |line: &serde_json::Value, side: &str| {
        number(line, &format!("{side}_logp")) - number(line, &format!("ref_{side}_logp"))
    };
    let margin = mean(&|line| ratio(line, "chosen") - ratio(line, "rejected"));
    let ipo = mean(&|line| {
        let per_token = |side| ratio(line, side) / number(line, &format!("{side}_tokens"));
        (per_token("chosen") - per_token("rejected") - 1.0).powi(2)
    });
    let near =
        |got: f64, want: f64| assert!((got - want).abs() < 1e-9 * want.abs().max(1.0), "{got} for {want}");
    let found = eval(&[]);
    assert_eq!(found["pairs"], scores.len());
    near(number(&found, "loss"), ipo);
    near(number(&found, "reward_margin"), 0.5 * margin);
    near(number(&eval(&["--beta", "2"]), "reward_margin"), 2.0 * margin);
    // The configuration of another run, with its loss, its β and no truncation.
    place.llama_recipe(&[("data.max_length", json!(null))]);
    let other = eval(&["--config", "run.yaml"]);
    assert!(number(&other, "logp_chosen") < number(&found, "logp_chosen"), "{other} {found}");
    let refused = place.run(&[&["eval"], &args[..], &["--beta", "0"]].concat());
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("objective.beta is 0"), "{}", refused.stderr);
}

/// `eval_steps: null` evaluates before the first step and after the last one.
#[test]
fn a_run_is_evaluated_at_its_beginning_and_its_end() {
    let place = Place::new();
    place.llama_recipe(&[("train.max_steps", json!(3)), ("data.eval", json!(0.3))]);
    let said = place.run(&TRAIN).ok();
    let lines = place.metrics("run");
    let evaluated: Vec<u64> =
        lines.iter().filter(|l| !l["eval_loss"].is_null()).map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(evaluated, [0, 3]);
    let before = lines.iter().find(|line| line["step"] == 0).unwrap();
    assert_eq!((&before["eval_rewards/chosen"], &before["eval_kl"]), (&json!(0.0), &json!(0.0)));
    assert!(said.contains("held-out accuracy"), "{said}");
}

/// A template that prints the date, resumed on another day.
#[test]
fn a_run_keeps_the_date_of_its_template() {
    let place = Place::new();
    let template = "{{ strftime_now('%d %m %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let chat =
        |text: &str| json!([{"role": "user", "content": "a b"}, {"role": "assistant", "content": text}]);
    let lines: Vec<String> = (0..4)
        .map(|i| {
            json!({"chosen": chat(&format!("good {i}")), "rejected": chat(&format!("bad {i}"))}).to_string()
        })
        .collect();
    place.write("chat.jsonl", lines.join("\n"));
    place.llama_recipe(&[("data", json!({"train": "chat.jsonl", "chat_template": template}))]);
    let on = |day: &str, args: &[&str]| {
        let child = place.command(args).env("SOURCE_DATE_EPOCH", day).spawn().unwrap();
        crate::common::program::finish(child)
    };
    // 2025-10-09 and 2033-05-18 have different digits and therefore different tokens.
    on("1760000000", &TRAIN).ok();
    let written = String::from_utf8(place.read("run/config.yaml")).unwrap();
    assert!(written.contains("chat_template_date: 2025-10-09T08:53:20"), "{written}");
    on("2000000000", &["train", "-c", "run.yaml", "--resume"]).ok();
    // The checkpoint stores the date, so the configuration is not needed.
    std::fs::remove_file(place.path("run/config.yaml")).unwrap();
    on("2000000000", &["train", "-c", "run.yaml", "--resume"]).ok();
    let other = on(
        "2000000000",
        &["train", "-c", "run.yaml", "--resume", "--set", "data.chat_template_date=2033-05-18"],
    );
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    let fresh = on("2000000000", &["train", "-c", "run.yaml", "--set", "output_dir=fresh"]);
    fresh.ok();
    assert_ne!(place.metrics("fresh"), place.metrics("run"), "the date is in the tokens");
    let wrong =
        on("0", &["train", "-c", "run.yaml", "--overwrite", "--set", "data.chat_template_date=tomorrow"]);
    assert!(
        wrong.code == Some(2) && wrong.stderr.contains("chat_template_date is tomorrow"),
        "{}",
        wrong.stderr
    );
}
