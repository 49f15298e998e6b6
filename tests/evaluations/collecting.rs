//! `collect` with a script instead of a person.

use dpo_lora::random::Stream;
use serde_json::{Value, json};

use super::{Place, favourable};

fn collect(place: &Place, input: &str, more: &[&str]) -> super::Ran {
    let head = [
        "collect",
        "prompts.txt",
        "--base",
        "tiny-reviews",
        "--output",
        "pairs.jsonl",
        "--max-new-tokens",
        "12",
    ];
    place.run_with(input, &[&head[..], more].concat())
}

fn prompts(place: &Place, n: usize) {
    let lines: Vec<String> = (0..n).map(|i| format!("The film number {i} is")).collect();
    std::fs::write(place.path("prompts.txt"), lines.join("\n")).unwrap();
}

fn pairs(place: &Place) -> Vec<Value> {
    place.read("pairs.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn votes(place: &Place) -> Vec<Value> {
    place.read("pairs.jsonl.votes.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn votes_are_kept_and_the_same_command_goes_on() {
    let place = Place::new();
    prompts(&place, 6);
    // Two votes, an answer that is none, and the end of the input.
    let first = collect(&place, "1\nx\n2\n", &[]);
    assert!(
        first.stderr.contains("`x` is not one of the choices") && first.stderr.contains("[1]"),
        "{}",
        first.stderr
    );
    assert!(first.ok().contains("2 pairs of 2 votes"));
    assert_eq!((pairs(&place).len(), votes(&place).len()), (2, 2));
    let samples = place.read("pairs.jsonl.samples.jsonl");
    let second = collect(&place, "=\ns\nq\n", &[]).ok();
    assert!(second.contains("3 pairs of 3 votes"), "{second}");
    let third = collect(&place, &"1\n".repeat(10), &[]);
    assert!(third.stderr.contains("every question is answered"), "{}", third.stderr);
    assert_eq!((pairs(&place).len(), votes(&place).len()), (5, 6));
    assert_eq!(place.read("pairs.jsonl.samples.jsonl"), samples, "no prompt is completed again");
    // Each question was asked once.
    let mut asked: Vec<String> = votes(&place).iter().map(|vote| vote["prompt"].to_string()).collect();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 6);
    // A tie has the label ½; the others are certain, and the chosen answer is the one that was taken.
    let labels: Vec<f64> = pairs(&place).iter().filter_map(|pair| pair["label"].as_f64()).collect();
    assert_eq!(labels, [0.5]);
    for vote in votes(&place).iter().filter(|vote| vote["choice"] == "first") {
        let pair = pairs(&place).into_iter().find(|pair| pair["prompt"] == vote["prompt"]).unwrap();
        assert_eq!((&pair["chosen"], &pair["rejected"]), (&vote["answers"][0], &vote["answers"][1]));
    }
    // The left answer is not always the same sample.
    let turned: Vec<bool> = votes(&place).iter().map(|vote| vote["turned"] == true).collect();
    assert!(turned.contains(&true) && turned.contains(&false), "{turned:?}");
    // The pairs are what `train` reads.
    let checked = place.run(&["data", "check", "pairs.jsonl", "--base", "tiny-reviews", "--json"]);
    assert_eq!(checked.json()["train"]["records"], 5);
}

#[test]
fn conflicting_votes_become_a_soft_label_and_are_told() {
    let place = Place::new();
    prompts(&place, 4);
    collect(&place, &"1\n".repeat(4), &["--annotator", "ann"]).ok();
    // Bob agrees with Ann but for the first question. The order is the same for both, and the sides are not.
    let sides = Stream::new(42, "sides").named("bob");
    let answer = |(i, vote): (usize, &Value)| {
        let prompt = vote["prompt"].as_str().unwrap();
        let number: u64 = prompt.split(' ').nth(3).unwrap().parse().unwrap();
        let is_turned = sides.word(number) & 1 == 1;
        let takes_left = (vote["choice"] == "first") != is_turned;
        if takes_left == (i > 0) { "1\n" } else { "2\n" }
    };
    let answers: String = votes(&place).iter().enumerate().map(answer).collect();
    let found = collect(&place, &answers, &["--annotator", "bob", "--json"]).json();
    assert_eq!((&found["pairs"], &found["votes"]), (&json!(4), &json!(8)));
    assert_eq!(found["conflicts"].as_array().unwrap().len(), 1, "{found}");
    let conflict = &found["conflicts"][0];
    let mut votes = conflict["votes"].as_array().unwrap().clone();
    votes.sort_by_key(Value::as_u64);
    assert_eq!(votes, [0, 1, 1]);
    let soft: Vec<Value> = pairs(&place).into_iter().filter(|pair| pair.get("label").is_some()).collect();
    assert_eq!((soft.len(), &soft[0]["prompt"]), (1, &conflict["prompt"]));
    let label = soft[0]["label"].as_f64().unwrap();
    assert!((0.5..0.8).contains(&label), "{label}");
    let names: Vec<&str> =
        found["annotators"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "bob"]);
    // Without questions: the same pairs again.
    let before = place.read("pairs.jsonl");
    std::fs::remove_file(place.path("pairs.jsonl")).unwrap();
    let told = collect(&place, "", &["--no-ask"]).ok();
    assert!(told.contains("in conflict: 1 for") && place.read("pairs.jsonl") == before, "{told}");
}

#[test]
fn annotators_who_always_take_the_left_answer_do_not_agree() {
    let place = Place::new();
    prompts(&place, 8);
    for name in ["ann", "bob"] {
        collect(&place, &"1\n".repeat(8), &["--annotator", name]).ok();
    }
    let choices = |name: &str| -> Vec<String> {
        let own = votes(&place).into_iter().filter(|vote| vote["annotator"] == name);
        own.map(|vote| vote["choice"].to_string()).collect()
    };
    let (ann, bob) = (choices("ann"), choices("bob"));
    let agree = ann.iter().zip(&bob).filter(|(a, b)| a == b).count();
    assert!((1..8).contains(&agree), "{ann:?} {bob:?}");
}

#[test]
fn a_prompt_does_not_act_on_the_terminal() {
    let place = Place::new();
    std::fs::write(place.path("prompts.txt"), "The film\u{1b}[2J is\n").unwrap();
    let asked = collect(&place, "q\n", &[]);
    assert!(asked.stderr.contains("> The film\\u{1b}[2J is\n"), "{:?}", asked.stderr);
    asked.ok();
}

#[test]
fn an_adapter_says_what_is_uncertain() {
    let place = Place::new();
    prompts(&place, 5);
    let adapter = favourable();
    let asked = collect(&place, &"1\n".repeat(5), &["--adapter", &adapter, "--strategy", "uncertainty"]);
    asked.ok();
    assert_eq!(votes(&place).len(), 5);
    let refused = collect(&Place::new(), "", &["--strategy", "uncertainty"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--adapter"), "{}", refused.stderr);
}

#[test]
fn other_files_are_not_overwritten() {
    let place = Place::new();
    prompts(&place, 2);
    std::fs::write(place.path("pairs.jsonl"), "mine").unwrap();
    let refused = collect(&place, "1\n", &[]);
    assert!(refused.code == Some(2) && refused.stderr.contains("name another output"), "{}", refused.stderr);
    assert_eq!(place.read("pairs.jsonl"), "mine");
    std::fs::remove_file(place.path("pairs.jsonl")).unwrap();
    let missing = place.run(&["collect", "none.txt", "--base", "tiny-reviews", "-o", "p.jsonl"]);
    assert!(missing.code == Some(2) && missing.stderr.contains("none.txt"), "{}", missing.stderr);
}
