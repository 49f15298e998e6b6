//! What a person sees on a terminal: `script` makes one.
#![cfg(target_os = "linux")]

use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::program::Place;

/// Runs the program on a terminal of so many columns, and returns all that was written to it; `None` where there is no
/// `script`.
fn on_terminal(place: &Place, columns: usize, args: &str) -> Option<String> {
    let program = env!("CARGO_BIN_EXE_dpo-lora");
    let command = format!("stty cols {columns} rows 24; exec {program} {args}");
    let ran = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .current_dir(place.path(""))
        .env("XDG_CACHE_HOME", place.path("cache"))
        .env("NO_COLOR", "1")
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output();
    let Ok(ran) = ran else {
        // Without `script` there is no terminal to test on.
        return None;
    };
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{text}");
    Some(text)
}

/// The lines as they scroll by, without what moves the cursor and without bars that were wiped out.
fn lines(text: &str) -> Vec<String> {
    let escapes = fancy_regex::Regex::new("\x1b\\[[0-9;?]*[A-Za-z]").unwrap();
    let plain = escapes.replace_all(text, "").into_owned();
    let shown = plain.split('\n').map(|line| line.trim_end_matches('\r'));
    shown.map(|line| line.rsplit('\r').next().unwrap_or_default().to_string()).collect()
}

#[test]
fn a_run_shows_its_loss_and_ends_with_a_summary_within_80_columns() {
    let place = Place::new();
    place.llama_recipe(&[("data.eval", json!(0.3)), ("train.max_steps", json!(12))]);
    let Some(text) = on_terminal(&place, 80, "train -c run.yaml") else { return };
    let lines = lines(&text);
    let steps = lines.iter().filter(|line| line.contains("  loss ") && line.contains("step ")).count();
    assert!(steps >= 12, "{text}");
    let said = |words: &str| lines.iter().any(|line| line.contains(words));
    for words in
        ["held out:", "margin  ", " → ", "held-out accuracy: before", "next:", "dpo-lora generate --base"]
    {
        assert!(said(words), "{words:?} in {text}");
    }
    // The live view: each of its parts begins a line.
    for start in ["loss    ", "margin  ", "> "] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start:?} in {text}");
    }
    let completion = lines.iter().position(|line| line.starts_with("> ")).unwrap();
    assert!(lines[completion + 1].starts_with("  "), "{text}");
    for line in lines
        .iter()
        .filter(|line| line.starts_with("step") || line.contains('█') || line.contains("held-out"))
    {
        assert!(line.chars().count() <= 80, "{} characters: {line}", line.chars().count());
    }
}

#[test]
fn completions_appear_piece_by_piece_and_are_those_of_a_pipe() {
    let place = Place::new();
    let args =
        ["generate", "--base", "tiny-reviews", "--prompt", "The film is about", "--max-new-tokens", "24"];
    let whole = place.run(&args).ok();
    let quoted = args.map(|word| format!("'{word}'")).join(" ");
    let Some(text) = on_terminal(&place, 80, &quoted) else { return };
    assert_eq!(text.replace('\r', "").trim_end(), whole.trim_end());
    let stopped = whole.trim().chars().skip(6).take(4).collect::<String>();
    let piped = place.run(&[&args[..], &["--stop", &stopped]].concat()).ok();
    let shown = on_terminal(&place, 80, &format!("{quoted} --stop '{stopped}'")).unwrap();
    assert_eq!(shown.replace('\r', "").trim_end(), piped.trim_end());
}

#[test]
fn long_commands_show_their_progress() {
    let place = Place::new();
    let prompts = (0..1500).map(|i| format!("The film number {i} is about\n")).collect::<String>();
    place.write("prompts.txt", prompts);
    let data = "--base tiny-reviews --data tiny-reviews/train.jsonl --threads 1";
    for (args, what) in [
        (format!("score {data} --output scores.jsonl"), "scoring records"),
        (
            "generate --base tiny-reviews --prompts prompts.txt --max-new-tokens 64 --threads 1".into(),
            "completing prompts",
        ),
    ] {
        let Some(text) = on_terminal(&place, 80, &args) else { return };
        assert!(text.contains(what), "{what:?} in {text}");
    }
}
