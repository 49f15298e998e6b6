//! Rewards, from the library and from the program.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::program::Place;
use common::{decoder, fixture, pack, random_lora};
use dpo_lora::data::{Example, Kind, Origin};
use dpo_lora::model::pass::Pass;
use dpo_lora::objective::Objective;
use dpo_lora::reward::{LogRatio, Reward, Sample, Spec};
use dpo_lora::trainable::Policy;

const TIMEOUT: Duration = Duration::from_secs(20);

fn sample<'a>(prompt: &'a str, completion: &'a str) -> Sample<'a> {
    Sample { prompt, completion, prompt_tokens: &[], tokens: &[] }
}

/// The rewards of two completions.
fn rewards(spec: &str, timeout: Duration) -> Result<Vec<f64>, String> {
    let spec: Spec = spec.parse().map_err(|error: dpo_lora::Error| error.to_string())?;
    let mut reward = spec.plain(timeout).map_err(|error| error.to_string())?;
    assert_eq!(reward.name(), spec.to_string());
    let samples = [sample("The film is", " a lovely,\nélan \"dull\" one."), sample("x", "Lovely LOVELY")];
    reward.rewards(&samples).map_err(|error| error.to_string())
}

#[test]
fn plain_rewards_are_what_they_say() {
    assert_eq!(rewards("length", TIMEOUT).unwrap(), [27.0, 13.0]);
    assert_eq!(rewards("regex:^ a|nothing", TIMEOUT).unwrap(), [1.0, 0.0]);
    assert_eq!(rewards("regex:(?i)lovely(?! LOVELY)", TIMEOUT).unwrap(), [1.0, 1.0]);
    // One favourable and one unfavourable word; two favourable ones.
    assert_eq!(rewards("tiny-reviews", TIMEOUT).unwrap(), [0.5, 1.0]);
    let mut reward = "tiny-reviews".parse::<Spec>().unwrap().plain(TIMEOUT).unwrap();
    assert_eq!(reward.rewards(&[sample("", "a sailor"), sample("", "dull")]).unwrap(), [0.5, 0.0]);
}

#[test]
fn wrong_specs_name_the_right_ones() {
    for (text, said) in [
        ("lenght", "did you mean length?"),
        ("regexp:x", "did you mean regex:PATTERN?"),
        ("regex:", "regex:PATTERN"),
        ("regex:(", "is invalid"),
        ("command: ", "command:PROGRAM"),
        ("command:a 'b", "closed quotes"),
        ("length:3", "\"length:3\" is not a reward"),
        ("adapter", "adapter:DIR"),
        ("", "the rewards are length, regex:PATTERN"),
        ("adapter:x", "needs a base model"),
    ] {
        let error = rewards(text, TIMEOUT).unwrap_err();
        assert!(error.contains(said), "{text:?}: {error}");
    }
}

#[cfg(unix)]
fn sh(script: &str) -> String {
    assert!(!script.contains('\''));
    format!("command:sh -c '{script}'")
}

#[test]
#[cfg(unix)]
fn a_command_scores_lines() {
    assert_eq!(rewards(&sh("cat >/dev/null; echo 1.5; echo -2e0"), TIMEOUT).unwrap(), [1.5, -2.0]);
    let objects = r#"cat >/dev/null; printf "%s\n" "{\"score\": 3}" "{\"reward\": 4, \"score\": 5}""#;
    assert_eq!(rewards(&sh(objects), TIMEOUT).unwrap(), [3.0, 4.0]);
    // It reads what was sent, one line for each completion: here the number of characters of each line.
    let lengths = rewards(&sh("while read -r line; do echo ${#line}; done"), TIMEOUT).unwrap();
    let line = r#"{"prompt":"x","completion":"Lovely LOVELY"}"#;
    assert_eq!(lengths[1], line.len() as f64);
    // One that does not read its input.
    assert_eq!(rewards(&sh("echo 1; echo 2"), TIMEOUT).unwrap(), [1.0, 2.0]);
}

#[test]
#[cfg(unix)]
fn a_command_that_fails_is_one_clear_error() {
    for (script, said) in [
        ("echo 1; echo {", "wrote \"{\" in line 2"),
        ("echo 1; echo null", "wrote \"null\" in line 2"),
        ("echo 1; echo NaN", "wrote \"NaN\" in line 2"),
        ("echo 1; echo 1e999", "in line 2"),
        ("echo 1", "wrote 1 scores for 2 completions"),
        ("echo 1; echo 2; echo 3", "wrote 3 scores for 2 completions"),
        ("echo no key in line 1 >&2; exit 3", "exit status: 3): no key in line 1"),
        (r#"printf "no\033[2J key\n" >&2; exit 3"#, r"exit status: 3): no\u{1b}[2J key"),
        ("exit 3", "exit status: 3"),
        ("yes", "the reward command"),
    ] {
        let error = rewards(&sh(script), TIMEOUT).unwrap_err();
        assert!(error.starts_with("the reward command") && error.contains(said), "{script}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = rewards("command:no-such-program-anywhere --x", TIMEOUT).unwrap_err();
    assert!(error.contains("cannot be started"), "{error}");
}

#[test]
fn a_prompt_does_not_act_on_the_terminal() {
    let (place, model) = (Place::new(), fixture("models/llama"));
    let prompt = "The river\u{1b}[2J\nis";
    let fixed = ["generate", "--base", model.to_str().unwrap(), "--no-chat", "--max-new-tokens", "2"];
    let run =
        |more: &[&str]| place.run(&[&fixed[..], &["--prompt", prompt, "--prompt", "A cat"], more].concat());
    let text = run(&[]).ok();
    assert!(text.starts_with("> The river\\u{1b}[2J\nis\n"), "{text:?}");
    // What a program reads is as it was.
    assert_eq!(run(&["--json"]).json()[0]["prompt"], prompt);
}

#[test]
#[cfg(unix)]
fn a_command_that_hangs_is_stopped() {
    let begun = Instant::now();
    for script in ["sleep 30", "echo 1; echo 2; sleep 30", "exec sleep 30"] {
        let error = rewards(&sh(script), Duration::from_millis(300)).unwrap_err();
        assert!(error.contains("did not finish within 0.3 s for 2 completions"), "{error}");
        assert!(error.contains("raise --reward-timeout"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn the_log_ratio_is_the_implicit_reward() {
    let model = decoder("gemma3");
    let of_model = || Policy::of(random_lora(&model, 5));
    let policy = of_model();
    let prompts: [&[u32]; 3] = [&[5, 7, 9], &[5, 7, 9], &[4]];
    let tokens: [&[u32]; 3] = [&[3, 4, 5], &[], &[8, 6]];
    let samples: Vec<Sample> = (0..3)
        .map(|i| Sample { prompt: "", completion: "", prompt_tokens: prompts[i], tokens: tokens[i] })
        .collect();
    let mut reward = LogRatio::new(&model.decoder, of_model(), Objective::default(), "adapter:x");
    let found = reward.rewards(&samples).unwrap();
    for i in 0..3 {
        let example = Example {
            prompt: prompts[i].to_vec(),
            completions: vec![tokens[i].to_vec()],
            kind: Kind::Text,
            origin: Origin::new("test", 1),
        };
        let batch = pack(&[example]);
        let logp = |pass| model.decoder.logps(&batch, &policy, pass).unwrap()[0];
        // The default of DPO's β.
        let want = 0.1 * (logp(Pass::Policy) - logp(Pass::Reference));
        assert!((found[i] - want).abs() < 1e-9, "{i}: {} against {want}", found[i]);
        assert_eq!(found[i] == 0.0, tokens[i].is_empty());
    }
}

#[test]
fn generate_draws_several_and_takes_the_best() {
    let place = Place::new();
    let model = fixture("models/llama");
    let adapter = model.join("adapters/plain");
    let fixed = [
        "generate",
        "--base",
        model.to_str().unwrap(),
        "--adapter",
        adapter.to_str().unwrap(),
        "--no-chat",
        "--max-new-tokens",
        "12",
        "--prompt",
        "The river",
        "--prompt",
        "A cat",
    ];
    let run = |more: &[&str]| place.run(&[&fixed[..], more].concat());
    let all = run(&["--best-of", "5", "--reward", "length", "--json"]);
    let bound = 5f64.ln() - 0.8;
    assert!(all.stderr.contains("best of 5 by length: mean reward"), "{}", all.stderr);
    assert!(all.stderr.contains(&format!("log N - (N-1)/N = {bound:.4} nats")), "{}", all.stderr);
    let all = all.json();
    assert_eq!(all.len(), 10);
    for group in all.chunks(5) {
        let rewards: Vec<f64> = group.iter().map(|line| line["reward"].as_f64().unwrap()).collect();
        let most = rewards.iter().copied().fold(0.0, f64::max);
        let best: Vec<&serde_json::Value> = group.iter().filter(|line| line["best"] == true).collect();
        assert_eq!((best.len(), best[0]["reward"].as_f64()), (1, Some(most)));
        assert!(rewards.iter().any(|reward| *reward < most));
        for line in group {
            assert_eq!(line["reward"], line["completion"].as_str().unwrap().chars().count() as f64);
            assert_eq!(line["logps"].as_array().unwrap().len(), line["token_ids"].as_array().unwrap().len());
            assert!((line["kl_bound"].as_f64().unwrap() - bound).abs() < 1e-12);
        }
    }
    // The completions are those of --n; the text is the best one alone.
    let drawn = run(&["--n", "5", "--json"]).json();
    for (drawn, scored) in drawn.iter().zip(&all) {
        assert_eq!(drawn["completion"], scored["completion"]);
    }
    let text = run(&["--best-of", "5", "--reward", "length"]).ok();
    let best = all.iter().find(|line| line["best"] == true).unwrap();
    let shown = format!("> The river\n[reward {}]", best["reward"]).replace(".0]", "]");
    assert!(text.starts_with(&shown) && text.contains(best["completion"].as_str().unwrap()), "{text}");
    let several = run(&["--n", "2"]).ok();
    assert!(several.contains("[1]") && several.contains("[2]") && !several.contains("[3]"), "{several}");

    for (wrong, code, said) in [
        (&["--best-of", "5"][..], 2, "--reward"),
        (&["--n", "2", "--best-of", "5", "--reward", "length"], 2, "cannot be used with"),
        (&["--n", "2", "--temperature", "0"], 2, "gives the same completion 2 times"),
        (&["--reward", "lenght"], 2, "did you mean length?"),
        (&["--reward", "adapter:nowhere"], 2, "nowhere"),
        (&["--reward", "command:false"], 1, "exit status: 1"),
        (&["--reward-timeout", "0"], 2, "1 to"),
    ] {
        let ran = run(wrong);
        assert_eq!(ran.code, Some(code), "{wrong:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{wrong:?}: {}", ran.stderr);
    }
    // The implicit reward of the policy itself.
    let adapter = format!("adapter:{}", adapter.display());
    let scored = run(&["--n", "2", "--reward", &adapter, "--json"]).json();
    assert!(scored.iter().all(|line| line["reward"].as_f64().unwrap() != 0.0));
}
