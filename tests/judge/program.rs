//! A win rate by an endpoint, from the built program: killed and run again, and what it says with a key.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::server::{Reply, Server};

const KEY: &str = "sk-f00dfacecafe5ec7e7";

fn win_rate(place: &Path, server: &Server) -> Command {
    let config =
        format!("endpoint: {}\nmodel: m\napi_key_env: JUDGE_KEY\nconcurrency: 2\n", server.endpoint());
    std::fs::write(place.join("judge.yaml"), config).unwrap();
    let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/adapters/tiny-reviews-favourable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpo-lora"));
    command.args(["-vv", "eval", "win-rate", "--base", "tiny-reviews", "--adapter", adapter, "--json"]);
    command.args(["--prompts", "tiny-reviews/prompts.jsonl", "--limit", "8", "--max-new-tokens", "16"]);
    command.args(["--judge", "endpoint:judge.yaml", "--output", "out"]).env("JUDGE_KEY", KEY);
    command.current_dir(place).env("XDG_CACHE_HOME", place.join("cache"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn transcript(place: &Path) -> String {
    std::fs::read_to_string(place.join("out/transcript.jsonl")).unwrap_or_default()
}

#[test]
fn a_killed_run_goes_on_and_the_key_is_nowhere() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::start(|before, _| {
        std::thread::sleep(Duration::from_millis(100));
        if before == 1 { Reply::Send(500, "", format!("no {KEY}")) } else { Reply::verdict("A") }
    });
    let mut killed = win_rate(place, &server).spawn().unwrap();
    let began = Instant::now();
    while transcript(place).lines().count() < 4 {
        assert!(began.elapsed() < Duration::from_secs(120), "nothing is judged");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (before, samples) = (server.seen().len(), std::fs::read(place.join("out/samples.jsonl")).unwrap());

    let output = win_rate(place, &server).output().unwrap();
    let (said, found) =
        (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(output.status.success(), "{said}");
    let figures: Value = serde_json::from_str(&found).unwrap();
    let point = &figures["points"][0];
    // A judge that always says A prefers a place: every pair is a tie.
    assert_eq!(
        (&point["win_rate"]["mean"], &point["position"]["always_first"]),
        (&0.5.into(), &1.0.into()),
        "{point}"
    );
    let lines: Vec<Value> =
        transcript(place).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let judged: Vec<&str> = lines
        .iter()
        .filter(|line| line["verdict"].is_number())
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    let wanted = 2 * (8 - point["equal"].as_u64().unwrap() as usize);
    assert_eq!(
        (judged.len(), judged.iter().collect::<BTreeSet<_>>().len()),
        (wanted, wanted),
        "judged twice"
    );
    assert!(said.contains(" verdicts were kept in out/transcript.jsonl; delete it to ask again"), "{said}");
    // Only what was under way when the program was killed is asked again: at most two questions.
    assert!(server.seen().len() <= wanted + 1 + 2 && before >= 4, "{} {before}", server.seen().len());
    assert_eq!(std::fs::read(place.join("out/samples.jsonl")).unwrap(), samples);

    assert!(server.seen().iter().all(|it| it.authorization == Some(format!("Bearer {KEY}"))));
    let files = std::fs::read_dir(place.join("out")).unwrap().map(|entry| entry.unwrap().path());
    for text in files.map(|path| std::fs::read_to_string(path).unwrap()).chain([said, found]) {
        assert!(!text.contains("f00dface"), "{text}");
    }
}
