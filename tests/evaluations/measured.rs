//! The subcommands of `eval`.

use serde_json::Value;

use super::{Place, favourable};

/// Arguments that all draws have in common: few prompts, short answers.
const DRAW: [&str; 6] = ["--limit", "12", "--max-new-tokens", "24", "--seed", "3"];

fn win_rate(place: &Place, more: &[&str]) -> super::Ran {
    let adapter = favourable();
    let head = ["eval", "win-rate", "--base", "tiny-reviews", "--adapter", &adapter, "--json"];
    place.run(&[&head[..], &DRAW, more].concat())
}

#[test]
fn a_better_policy_wins_and_a_run_that_was_cut_off_goes_on() {
    let place = Place::new();
    let asked = [
        "--prompts",
        "tiny-reviews/prompts.jsonl",
        "--judge",
        "tiny-reviews",
        "--temperature",
        "0,1",
        "--samples",
        "2",
    ];
    let found = win_rate(&place, &asked).json();
    let points = found["points"].as_array().unwrap();
    // Greedily one answer each, else two.
    let counts: Vec<u64> = points.iter().map(|point| point["comparisons"].as_u64().unwrap()).collect();
    assert_eq!(counts, [12, 24]);
    for point in points {
        let rate = &point["win_rate"];
        let [low, mean, high] = ["low", "mean", "high"].map(|key| rate[key].as_f64().unwrap());
        assert!(low <= mean && mean <= high && mean > 0.7, "{point}");
        let [won, tied, lost] = ["won", "tied", "lost"].map(|key| point["outcomes"][key].as_u64().unwrap());
        assert_eq!(won + tied + lost, point["comparisons"].as_u64().unwrap());
    }
    for file in ["win-rate.json", "win-rate.csv", "win-rate.svg"] {
        assert!(!place.read(&format!("win-rate/{file}")).is_empty());
    }
    assert_eq!(serde_json::from_str::<Value>(&place.read("win-rate/win-rate.json")).unwrap(), found);
    let csv = place.read("win-rate/win-rate.csv");
    assert!(csv.starts_with("temperature,win rate,low,high,prompts,") && csv.lines().count() == 3, "{csv}");

    // Both sides of twelve prompts at two temperatures. Cut in the middle of a line, the rest is drawn again, and the same.
    let samples = place.read("win-rate/samples.jsonl");
    assert_eq!(samples.lines().count(), 48);
    std::fs::write(place.path("win-rate/samples.jsonl"), &samples[..samples.len() / 2]).unwrap();
    assert_eq!(win_rate(&place, &asked).json(), found);
    let mut again: Vec<String> = place.read("win-rate/samples.jsonl").lines().map(String::from).collect();
    let mut before: Vec<String> = samples.lines().map(String::from).collect();
    again.sort();
    before.sort();
    assert_eq!(again, before);
}

#[test]
fn the_chosen_answers_are_an_opponent() {
    let place = Place::new();
    let asked = ["--data", "tiny-reviews/eval.jsonl", "--judge", "tiny-reviews", "--against", "chosen"];
    let found = win_rate(&place, &asked).json();
    assert_eq!(found["against"], "chosen");
    assert_eq!(found["points"][0]["prompts"], 12);
    // Only one side is drawn.
    assert_eq!(place.read("win-rate/samples.jsonl").lines().count(), 12);
    let adapter = favourable();
    let itself = ["--prompts", "tiny-reviews/prompts.jsonl", "--judge", "length", "--against", &adapter];
    let point = win_rate(&place, &itself).json()["points"][0].clone();
    // The same policy with the same seeds: every pair is a tie.
    assert_eq!((&point["win_rate"]["mean"], &point["equal"]), (&Value::from(0.5), &Value::from(12)));
}

#[test]
fn wrong_questions_are_refused_before_any_work() {
    let place = Place::new();
    let prompts = ["--prompts", "tiny-reviews/prompts.jsonl"];
    for (more, words) in [
        (vec!["--judge", "tiny-reviews", "--against", "chosen"], "needs the chosen answers"),
        (vec!["--judge", "tiny-reviews", "--against", "nowhere"], "nowhere"),
        (vec!["--judge", "endpoint:none.yaml"], "none.yaml"),
        (vec!["--judge", "lenght"], "did you mean length"),
    ] {
        let ran = win_rate(&place, &[&prompts[..], &more[..]].concat());
        assert!(ran.code != Some(0) && ran.stderr.contains(words), "{more:?}: {}", ran.stderr);
    }
    std::fs::write(place.path("j.yaml"), "endpoint: http://127.0.0.1:9/v1\nmodel: m\napi_key_env: NO_SUCH\n")
        .unwrap();
    let ran = win_rate(&place, &[&prompts[..], &["--judge", "endpoint:j.yaml"]].concat());
    assert!(ran.code == Some(2) && ran.stderr.contains("is not set"), "{}", ran.stderr);
    let ran = place.run(&["eval"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

#[test]
fn a_frontier_begins_at_the_reference() {
    let place = Place::new();
    let adapter = favourable();
    let head = ["eval", "frontier", &adapter, "--base", "tiny-reviews", "--json", "--reward", "tiny-reviews"];
    let args = [&head[..], &DRAW, &["--prompts", "tiny-reviews/prompts.jsonl", "--samples", "2"]].concat();
    let found = place.run(&args).json();
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    let value = |i: usize, key: &str| points[i][key]["mean"].as_f64().unwrap();
    assert_eq!((value(0, "kl"), value(0, "kl_k3")), (0.0, 0.0));
    assert!(value(1, "kl") > 0.5 && value(1, "reward") > value(0, "reward") + 0.2, "{found}");
    assert!(points[1]["kl"]["low"].as_f64().unwrap() < value(1, "kl"));
    assert!(points.iter().all(|point| point["on_frontier"] == true && point["samples"] == 24));
    // The reference is the reference by definition.
    assert_eq!((&points[0]["kl"]["low"], &points[0]["kl"]["high"]), (&0.0.into(), &0.0.into()));
    let svg = place.read("frontier/frontier.svg");
    assert!(svg.contains("<polyline") && svg.contains("tiny-reviews-favourable"), "{svg}");
    // What is scored is said to be kept, and the scores of both policies are.
    let again = place.run(&args);
    let line = "48 scores were kept in frontier/scores.jsonl; delete it to score again";
    assert!(again.stderr.contains(line), "{}", again.stderr);
    assert_eq!(again.json(), found);
}

#[test]
fn one_prompt_has_a_wide_interval_or_none() {
    let place = Place::new();
    let few = ["--prompts", "tiny-reviews/prompts.jsonl", "--limit", "1", "--samples", "8"];
    let few = [&few[..], &["--max-new-tokens", "16", "--seed", "3"]].concat();
    let adapter = favourable();
    let head = ["eval", "win-rate", "--base", "tiny-reviews", "--adapter", &adapter, "--json"];
    let rate = place.run(&[&head[..], &few[..], &["--judge", "length"]].concat()).json()["points"][0].clone();
    let [low, high] = ["low", "high"].map(|key| rate["win_rate"][key].as_f64().unwrap());
    // Wilson's interval of one trial is nearly all there is.
    assert!(rate["prompts"] == 1 && rate["comparisons"] == 8 && high - low > 0.75, "{rate}");
    let args = ["eval", "frontier", &adapter, "--base", "tiny-reviews", "--reward", "length"];
    let args = [&args[..], &few[..]].concat();
    let said = place.run(&args).ok();
    assert!(said.contains("a single prompt, or prompts that all give the same number"), "{said}");
    let csv = place.read("frontier/frontier.csv");
    let cells: Vec<&str> = csv.lines().nth(2).unwrap().split(',').collect();
    // Reward and its ends, KL and its ends.
    assert!(!cells[2].is_empty() && cells[3..5] == ["", ""] && cells[6..8] == ["", ""], "{csv}");
    let json: Value = serde_json::from_str(&place.read("frontier/frontier.json")).unwrap();
    let point = &json["points"][1];
    assert!(point["reward"]["mean"].is_number() && point["reward"]["low"].is_null(), "{point}");
}

#[test]
fn calibration_and_displacement_over_pairs() {
    let place = Place::new();
    let adapter = favourable();
    let lines: Vec<String> =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny-reviews/eval.jsonl"))
            .unwrap()
            .lines()
            .take(24)
            .enumerate()
            .map(|(i, line)| {
                let mut row: Value = serde_json::from_str(line).unwrap();
                row["source"] = ["one", "other"][i % 2].into();
                row.to_string()
            })
            .collect();
    std::fs::write(place.path("eval.jsonl"), lines.join("\n")).unwrap();
    let args = [
        "eval",
        "calibration",
        "--base",
        "tiny-reviews",
        "--adapter",
        &adapter,
        "--data",
        "eval.jsonl",
        "--json",
    ];
    let found = place.run(&args).json();
    let calibration = &found["calibration"];
    let pairs = |value: &Value| value["pairs"].as_u64().unwrap();
    assert_eq!(calibration["bins"].as_array().unwrap().iter().map(pairs).sum::<u64>(), 24);
    let groups = found["groups"].as_array().unwrap();
    let of = |by: &str| groups.iter().filter(|group| group["by"] == by).cloned().collect::<Vec<_>>();
    assert_eq!(of("source").iter().map(pairs).collect::<Vec<_>>(), [12, 12]);
    // By which answer is longer, and by the length of the longer one.
    assert_eq!(of("length").iter().map(pairs).sum::<u64>(), 48);
    let all = &of("all")[0];
    let plain = ["eval", "--base", "tiny-reviews", "--adapter", &adapter, "--data", "eval.jsonl", "--json"];
    let plain = place.run(&plain).json();
    assert_eq!((&all["accuracy"], &all["pairs"]), (&plain["accuracy"], &plain["pairs"]));
    let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9;
    assert!(near(&all["margin"], &plain["reward_margin"]), "{all} {plain}");
    // The DPO loss with labels 1 is the log loss of sigmoid(margin).
    assert!(near(&calibration["log_loss"], &plain["loss"]), "{calibration} {plain}");
    assert!(place.read("calibration/groups.csv").lines().count() == groups.len() + 1);
    let refused = place.run(&["eval", "calibration", "--base", "tiny-reviews", "--data", "eval.jsonl"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--adapter"), "{}", refused.stderr);
}

#[test]
fn a_learning_curve_of_points() {
    let place = Place::new();
    let points = [50.0, 100.0, 200.0, 400.0, 800.0, 1600.0f64]
        .map(|n| format!("{n}, {}, 0.002\n", 0.1 + 2.0 / n.sqrt()))
        .concat();
    std::fs::write(place.path("p.csv"), format!("n, error, standard_error\n{points}")).unwrap();
    let found = place.run(&["eval", "learning-curve", "--points", "p.csv", "--json"]).json();
    assert_eq!(found["fit"]["support"], "supported");
    assert!((found["fit"]["b"]["value"].as_f64().unwrap() - 2.0).abs() < 1e-9);
    let said = place.run(&["eval", "learning-curve", "--points", "p.csv"]).ok();
    assert!(said.contains("the data support a + b/sqrt(N)") && said.contains("b = 2.0000"), "{said}");
    for (text, words) in [
        ("n,error\n1,2\n", "p.csv:2"),
        ("n,error,standard_error\n10,0.1,0.1\n", "p.csv: a learning curve needs"),
        ("n,error,standard_error\n10,0.1,0.1\n", "found 1"),
        ("n,error,standard_error\n10,0.1,0.1\n20,1.7,0.1\n", "p.csv:3: error is 1.7"),
        ("n,error,standard_error\n10,-0.1,0.1\n20,0.1,0.1\n", "p.csv:2: error is -0.1"),
    ] {
        std::fs::write(place.path("p.csv"), text).unwrap();
        let ran = place.run(&["eval", "learning-curve", "--points", "p.csv"]);
        assert!(ran.code == Some(1) && ran.stderr.contains(words), "{}", ran.stderr);
    }
}

#[test]
fn a_learning_curve_of_runs() {
    let place = Place::new();
    for limit in [16, 32] {
        let (output, limit) = (format!("runs/n{limit}"), format!("data.limit={limit}"));
        let settings = ["--set", "train.per_device_train_batch_size=8", "--set", "lora.r=2", "--set", &limit];
        let data = ["--base", "tiny-reviews", "--data", "tiny-reviews/train.jsonl", "--output", &output];
        place.run(&[&["train", "-q"][..], &data[..], &settings[..]].concat()).ok();
    }
    let lines =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny-reviews/eval.jsonl"));
    let few: Vec<String> = lines.unwrap().lines().take(16).map(String::from).collect();
    std::fs::write(place.path("eval.jsonl"), few.join("\n")).unwrap();
    let args = ["eval", "learning-curve", "runs/n16", "runs/n32", "--data", "eval.jsonl", "--json"];
    let found = place.run(&args).json();
    let sizes: Vec<f64> =
        found["points"].as_array().unwrap().iter().map(|point| point["n"].as_f64().unwrap()).collect();
    assert_eq!((sizes, &found["fit"]["support"]), (vec![16.0, 32.0], &Value::from("too_few_points")));
    // What is measured is not measured again.
    let kept = place.read("learning-curve/measured.jsonl");
    assert_eq!((place.run(&args).json(), kept.lines().count()), (found, 2));
    assert_eq!(place.read("learning-curve/measured.jsonl"), kept);
    let loss = [&args[..], &["--measure", "loss"]].concat();
    let loss = place.run(&loss).json();
    assert!(loss["points"][0]["error"].as_f64().unwrap() < 0.75, "{loss}");
}
