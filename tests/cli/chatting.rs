//! `chat`, through a pipe and on a terminal.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::fixture;
use crate::common::program::{Place, Ran, finish};

/// Runs `chat` with these lines as standard input.
fn chat(place: &Place, args: &[&str], lines: impl AsRef<[u8]>) -> Ran {
    let mut child = place.command(&[&["chat"], args].concat()).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_ref()).unwrap();
    finish(child)
}

fn pairs(place: &Place, name: &str) -> Vec<Value> {
    let text = String::from_utf8(place.read(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const ADAPTER: &str = "adapters/tiny-reviews-favourable";

#[test]
fn answers_are_those_of_generate_and_a_preferred_one_is_saved() {
    let place = Place::new();
    let adapter = format!("{}/{ADAPTER}", env!("CARGO_MANIFEST_DIR"));
    let args =
        ["--base", "tiny-reviews", "--adapter", &adapter, "--temperature", "0", "--max-new-tokens", "12"];
    let lines = "The film is\n/adapter both\nThe film is\n/save on\n/save! on\n/save! off on\n/save 7\n/adapter\n/quit\nnot read\n";
    let ran = chat(&place, &args, lines);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let answer = |adapter: Option<&str>| {
        let mut args =
            vec!["generate", "--base", "tiny-reviews", "--max-new-tokens", "12", "--prompt", "The film is"];
        args.extend(adapter.into_iter().flat_map(|adapter| ["--adapter", adapter]));
        place.run(&args).ok().trim_end_matches('\n').to_string()
    };
    let (on, off) = (answer(Some(&adapter)), answer(None));
    assert_ne!(on, off);
    assert_eq!(ran.stdout, format!("{on}\n[1: adapter off] {off}\n[2: adapter on] {on}\n"));
    for words in [
        "no chat template",
        "there is no answer 7",
        "both answer: first with the adapter off, then on",
        "answer 2 is preferred to answer 1",
        // The answers have as many tokens as they may.
        "answer 2 was cut at --max-new-tokens, and a model that learns from the pair",
    ] {
        assert!(ran.stderr.contains(words), "{words:?} in {}", ran.stderr);
    }
    let found = pairs(&place, "preferred.jsonl");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], json!({"prompt": "The film is", "chosen": on, "rejected": off}));
    assert_eq!(found[1]["chosen"], off.as_str());
    // What was saved can be trained on.
    let checked = place.run(&["data", "check", "preferred.jsonl", "--base", "tiny-reviews"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

#[test]
fn a_conversation_goes_on_through_the_template_and_starts_over() {
    let place = Place::new();
    let base = fixture("models/llama").display().to_string();
    let args = ["--base", &base, "--chat-template", "chatml", "--max-new-tokens", "6", "--temperature", "1"];
    let lines = "/system be brief\none\n/retry\n/save! 1\ntwo\n/retry\n/save!\n/system\nthree\n/retry\n/save!\n//slash\n/nonsense\n\
                 /adapter on\n/save\n/help\n";
    let ran = chat(&place, &[&args[..], &["--save", "pairs.jsonl"]].concat(), lines);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for words in [
        "/nonsense is not a command",
        "there is no adapter",
        "a pair needs two answers",
        "/adapter on|off|both",
    ] {
        assert!(ran.stderr.contains(words), "{words:?} in {}", ran.stderr);
    }
    let found = pairs(&place, "pairs.jsonl");
    assert_eq!(found.len(), 3, "{}", ran.stderr);
    let roles = |pair: &Value| -> Vec<String> {
        pair["prompt"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap().into()).collect()
    };
    assert_eq!(roles(&found[0]), ["system", "user"]);
    assert_eq!(roles(&found[1]), ["system", "user", "assistant", "user"]);
    // The conversation went on with the answer that was preferred.
    assert_eq!(
        found[1]["prompt"][2]["content"], found[0]["chosen"][0]["content"],
        "a saved answer stands as it is in the conversation"
    );
    assert_eq!(roles(&found[2]), ["user"]);
    let data = ["data", "check", "pairs.jsonl", "--base", &base, "--chat-template", "chatml"];
    assert_eq!(place.run(&data).code, Some(0));
    let wrong = chat(&place, &["--base", "tiny-reviews", "--system", "x"], "");
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--chat-template"), "{}", wrong.stderr);
}

#[test]
fn a_finished_answer_is_saved_and_a_line_that_is_not_utf_8_is_not_sent() {
    let place = Place::new();
    let args = ["--base", "tiny-reviews", "--temperature", "1", "--max-new-tokens", "200"];
    let ran = chat(&place, &args, b"caf\xe9 is\nThe film is\n/retry\n/save\n");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
    assert!(ran.stderr.contains("the message is not valid UTF-8, and is not sent"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("was cut"), "{}", ran.stderr);
    assert_eq!(pairs(&place, "preferred.jsonl")[0]["prompt"], "The film is");
}

#[cfg(target_os = "linux")]
#[test]
fn a_press_stops_the_answer_and_not_the_program() {
    use std::process::Command;
    use std::time::Duration;

    let place = Place::new();
    let mut child = place
        .command(&["chat", "--base", "tiny-reviews", "--max-new-tokens", "100000", "--temperature", "1"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let press = |child: &std::process::Child| {
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(300));
    };
    let mut input = child.stdin.take().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    // While nothing is written, a press is answered; a message afterwards is answered as before.
    press(&child);
    input.write_all(b"The film is\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    press(&child);
    input.write_all(b"The film is\n/quit\n").unwrap();
    drop(input);
    let ran = finish(child);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("press again to leave"), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
}

#[test]
fn a_message_without_room_for_an_answer_is_taken_back() {
    let place = Place::new();
    let base = fixture("models/llama").display().to_string();
    let lines = format!("{}\none\n", "the river ".repeat(300));
    let templated = ["--base", &base, "--chat-template", "chatml", "--max-new-tokens", "4"];
    let plain = ["--base", "tiny-reviews", "--max-new-tokens", "4"];
    for (args, words) in [
        (&templated[..], ["the conversation has ", "/reset starts it over; the message is taken back"]),
        (&plain, ["the message has ", "write a shorter one; the message is taken back"]),
    ] {
        let ran = chat(&place, args, &lines);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        words.iter().for_each(|words| assert!(ran.stderr.contains(words), "{words:?} in {}", ran.stderr));
        assert!(!ran.stdout.is_empty(), "the next message has no answer");
    }
}
