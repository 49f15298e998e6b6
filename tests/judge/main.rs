//! A judge that is slow, fails, answers with broken JSON, repeats itself or dies: nothing is lost, nothing is judged twice,
//! and the run goes on. The judge is a server on 127.0.0.1.
#![allow(missing_docs, clippy::unwrap_used)]

mod program;
mod server;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dpo_lora::judge::{Comparison, Judge, JudgeConfig, Judged};
use serde_json::Value;

use server::{Reply, Request, Server};

/// Comparisons of a `good` answer with a `poor` one; in every third the first is the poor one.
fn comparisons(n: usize) -> Vec<Comparison> {
    (0..n)
        .map(|i| {
            let answers = if i % 3 == 2 { ["poor", "good"] } else { ["good", "poor"] };
            Comparison { prompt: format!("question {i}"), answers: answers.map(String::from) }
        })
        .collect()
}

/// A judge that finds the good answer.
fn honest(request: &Request) -> Reply {
    let question = request.question();
    let first_is_good = question.find("good\n</answer_a>").is_some();
    Reply::verdict(if first_is_good { "A" } else { "B" })
}

fn config(server: &Server) -> JudgeConfig {
    JudgeConfig { backoff: 0.01, timeout: 5.0, attempts: 3, ..JudgeConfig::new(server.endpoint(), "m") }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn transcript(&self) -> PathBuf {
        self.0.path().join("transcript.jsonl")
    }

    fn judge(&self, config: JudgeConfig, n: usize) -> dpo_lora::Result<Judged> {
        Judge::new(config, &self.transcript())?.judge(&comparisons(n))
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.transcript()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The questions that have a verdict, and checks that none has two.
    fn judged_once(&self) -> usize {
        let lines = self.lines();
        let ids: Vec<&str> = lines
            .iter()
            .filter(|line| line["verdict"].is_number())
            .map(|line| line["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "judged twice");
        ids.len()
    }
}

fn firsts(judged: &Judged) -> Vec<Option<f64>> {
    judged.verdicts.iter().map(|verdict| verdict.as_ref().map(|verdict| verdict.first)).collect()
}

/// The verdicts of an honest judge.
fn truth(n: usize) -> Vec<Option<f64>> {
    (0..n).map(|i| Some(if i % 3 == 2 { 0.0 } else { 1.0 })).collect()
}

#[test]
fn both_orders_are_asked_and_averaged() {
    let server = Server::start(|_, request| honest(request));
    let place = Place::new();
    let judged = place.judge(config(&server), 6).unwrap();
    assert_eq!(firsts(&judged), truth(6));
    assert_eq!((judged.position.consistent, judged.position.first_shown_wins), (Some(1.0), 0.5));
    assert_eq!((server.seen().len(), place.judged_once(), judged.requests), (12, 12, 12));
    assert!(server.seen().iter().all(|request| request.path == "/v1/chat/completions"));
    // One line for each request, with the request and the answer in it.
    let line = &place.lines()[0];
    assert!(line["request"]["messages"][0]["content"].as_str().unwrap().contains("question"));
    assert!(line["answer"].as_str().unwrap().contains("verdict") && line["prompt_tokens"] == 100);
}

#[test]
fn a_judge_that_prefers_a_place_is_seen_and_cancelled() {
    let server = Server::start(|_, _| Reply::verdict("A"));
    let judged = Place::new().judge(config(&server), 5).unwrap();
    assert_eq!(firsts(&judged), vec![Some(0.5); 5]);
    assert_eq!((judged.position.always_first, judged.position.first_shown_wins), (Some(1.0), 1.0));
}

#[test]
fn in_one_order_the_place_is_drawn_and_told() {
    let once = |server: &Server| JudgeConfig { both_orders: false, ..config(server) };
    let server = Server::start(|_, _| Reply::verdict("A"));
    let place = Place::new();
    // The first side of all pairs is the same text: its place must not be.
    let pairs: Vec<Comparison> = (0..40)
        .map(|i| Comparison {
            prompt: format!("question {i}"),
            answers: ["ours", "theirs"].map(String::from),
        })
        .collect();
    let judge = Judge::new(once(&server), &place.transcript()).unwrap();
    let judged = judge.judge(&pairs).unwrap();
    let won = firsts(&judged).iter().filter(|verdict| **verdict == Some(1.0)).count();
    // 20, with a standard deviation of 3.2.
    assert!((8..=32).contains(&won), "{won} of 40 for a judge that does not read");
    let position = judged.position;
    assert_eq!((position.pairs, position.first_shown_wins, position.consistent), (40, 1.0, None));
    // Another run shows the same, and so does one with the sides exchanged.
    let turned: Vec<Comparison> = pairs
        .iter()
        .map(|it| Comparison { answers: [it.answers[1].clone(), it.answers[0].clone()], ..it.clone() })
        .collect();
    let again = Judge::new(once(&server), &place.transcript()).unwrap();
    let same = again.judge(&pairs).unwrap();
    assert_eq!((&same.verdicts, same.from_transcript), (&judged.verdicts, 40));
    let other = again.judge(&turned).unwrap();
    assert_eq!(firsts(&other).iter().filter(|verdict| **verdict == Some(1.0)).count(), 40 - won);
    // These are the same questions.
    assert_eq!((server.seen().len(), other.from_transcript), (40, 0));
    // A judge that reads is understood in whichever order a pair is shown.
    let server = Server::start(|_, request| honest(request));
    let judged = Place::new().judge(once(&server), 12).unwrap();
    assert_eq!((firsts(&judged), server.seen().len()), (truth(12), 12));
}

#[test]
fn what_this_judge_has_asked_is_not_from_an_earlier_run() {
    let server = Server::start(|_, request| honest(request));
    let place = Place::new();
    let judge = Judge::new(config(&server), &place.transcript()).unwrap();
    assert_eq!(judge.judge(&comparisons(3)).unwrap().from_transcript, 0);
    assert_eq!(judge.judge(&comparisons(3)).unwrap().from_transcript, 0);
    let later = Judge::new(config(&server), &place.transcript()).unwrap();
    assert_eq!((later.judge(&comparisons(4)).unwrap().from_transcript, server.seen().len()), (6, 8));
    // What was taken from the transcript is counted once.
    assert_eq!((later.judge(&comparisons(4)).unwrap().from_transcript, server.seen().len()), (0, 8));
}

#[test]
fn nothing_is_asked_again_in_another_run() {
    let server = Server::start(|_, request| honest(request));
    let place = Place::new();
    place.judge(config(&server), 3).unwrap();
    assert_eq!(server.seen().len(), 6);
    let more = place.judge(config(&server), 5).unwrap();
    assert_eq!((server.seen().len(), more.from_transcript, firsts(&more)), (10, 6, truth(5)));
    // The same question twice in one run, too.
    let twice = [comparisons(1), comparisons(1)].concat();
    let other = Place::new();
    Judge::new(config(&server), &other.transcript()).unwrap().judge(&twice).unwrap();
    assert_eq!(server.seen().len(), 12);
    // Another question is another judge.
    let criterion = JudgeConfig { criterion: "which is shorter".into(), ..config(&server) };
    place.judge(criterion, 1).unwrap();
    assert_eq!(server.seen().len(), 14);
}

#[test]
fn passing_failures_are_tried_again() {
    let server = Server::start(|before, request| match before {
        0 => Reply::HangUp,
        1 => Reply::Send(500, "", "oops".into()),
        2 => Reply::Cut,
        3 => Reply::Send(503, "", String::new()),
        4 => Reply::Send(200, "", r#"{"error": {"message": "overloaded"}}"#.into()),
        _ => honest(request),
    });
    let place = Place::new();
    let judged = place.judge(JudgeConfig { attempts: 8, concurrency: 1, ..config(&server) }, 2).unwrap();
    assert_eq!(firsts(&judged), truth(2));
    let problems: Vec<_> = place.lines().iter().filter(|line| line["problem"].is_string()).cloned().collect();
    assert_eq!((problems.len(), place.judged_once()), (5, 4));
    assert_eq!(problems[1]["status"], 500);
    assert_eq!(problems[1]["answer"], "oops");
}

#[test]
fn broken_answers_are_tried_again_and_left_out_in_the_end() {
    let server = Server::start(|before, request| {
        if request.question().contains("question 1\n") {
            return match before % 3 {
                0 => Reply::Send(200, "", "<html>".into()),
                1 => Reply::says("I like both, really."),
                _ => Reply::says(r#"{"verdict": "A"}{"verdict": "B"}"#),
            };
        }
        honest(request)
    });
    let place = Place::new();
    let judged = place.judge(config(&server), 3).unwrap();
    assert_eq!(firsts(&judged), [Some(1.0), None, Some(0.0)]);
    assert_eq!((judged.unreadable, place.judged_once()), (1, 4));
    // Three attempts at each of its two questions; another run asks them again, and nothing else.
    assert_eq!(server.seen().len(), 4 + 6);
    place.judge(config(&server), 3).unwrap();
    assert_eq!(server.seen().len(), 4 + 12);
}

#[test]
fn an_answer_without_end_is_asked_again_and_left_out() {
    let server = Server::start(|_, request| match request.question().contains("question 1\n") {
        true => Reply::Send(200, "", " ".repeat((4 << 20) + 1)),
        false => honest(request),
    });
    let place = Place::new();
    let judged = place.judge(config(&server), 3).unwrap();
    assert_eq!((firsts(&judged), judged.unreadable), (vec![Some(1.0), None, Some(0.0)], 1));
    assert_eq!((server.seen().len(), place.judged_once()), (4 + 6, 4));
    let problem =
        |line: &Value| line["problem"].as_str().is_some_and(|it| it.contains("more than 4194304 bytes"));
    assert_eq!(place.lines().iter().filter(|line| problem(line)).count(), 6);
    // A long page of a server that is not there now is no answer: its status counts.
    let server = Server::start(|before, request| match before {
        0 => Reply::Send(503, "", " ".repeat((4 << 20) + 1)),
        _ => honest(request),
    });
    let judged = Place::new().judge(JudgeConfig { concurrency: 1, ..config(&server) }, 1).unwrap();
    assert_eq!((firsts(&judged), server.seen().len()), (truth(1), 3));
}

#[test]
fn a_verdict_counts_whatever_the_server_says_of_tokens() {
    let server = Server::start(|before, request| {
        let first_is_good = request.question().contains("good\n</answer_a>");
        let verdict = if first_is_good { "A" } else { "B" };
        let usage = ["", r#", "usage": {"prompt_tokens": null}"#, r#", "usage": {"prompt_tokens": -1.5}"#];
        let parts = format!(r#"[{{"type": "text", "text": "{verdict}"}}]"#);
        let usage = usage[before % 3];
        Reply::Send(200, "", format!(r#"{{"choices": [{{"message": {{"content": {parts}}}}}]{usage}}}"#))
    });
    let place = Place::new();
    let priced = JudgeConfig {
        price_per_million_input_tokens: Some(1000.0),
        price_per_million_output_tokens: Some(2000.0),
        ..config(&server)
    };
    let judged = place.judge(priced, 3).unwrap();
    assert_eq!((firsts(&judged), server.seen().len()), (truth(3), 6));
    // What is not counted is estimated.
    assert!(
        place.lines().iter().all(|line| line["prompt_tokens"].is_null() && line["cost"].as_f64() > Some(0.5))
    );
}

#[test]
fn an_answer_that_repeats_itself_is_one_verdict() {
    let server = Server::start(|_, request| {
        let first_is_good = request.question().contains("good\n</answer_a>");
        let verdict = if first_is_good { r#"{"verdict": "A"} "# } else { r#"{"verdict": "B"} "# };
        Reply::says(&verdict.repeat(500))
    });
    let judged = Place::new().judge(JudgeConfig { both_orders: false, ..config(&server) }, 3).unwrap();
    assert_eq!(firsts(&judged), truth(3));
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_judge_that_is_never_understood_stops_the_run() {
    let server = Server::start(|_, _| Reply::says("As a language model"));
    let place = Place::new();
    let error = place.judge(JudgeConfig { attempts: 2, concurrency: 1, ..config(&server) }, 50).unwrap_err();
    assert!(error.to_string().contains("none of the first 5 questions"), "{error}");
    assert_eq!((server.seen().len(), place.lines().len()), (10, 10));
}

#[test]
fn a_slow_judge_is_given_up_in_time() {
    for slow in [Reply::Silent(Duration::from_secs(4)), Reply::Trickle(Duration::from_secs(4))] {
        let slow = slow.clone();
        let server =
            Server::start(move |before, request| if before == 0 { slow.clone() } else { honest(request) });
        let place = Place::new();
        let began = Instant::now();
        let judged = place.judge(JudgeConfig { timeout: 0.4, concurrency: 1, ..config(&server) }, 1).unwrap();
        assert_eq!(firsts(&judged), truth(1));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(place.lines().len(), 3);
    }
}

#[test]
fn a_judge_that_dies_loses_nothing() {
    let dead = Arc::new(AtomicBool::new(false));
    let dying = dead.clone();
    let server = Server::start(move |before, request| {
        if before >= 7 && dying.load(Ordering::SeqCst) { Reply::HangUp } else { honest(request) }
    });
    dead.store(true, Ordering::SeqCst);
    let place = Place::new();
    let error = place.judge(config(&server), 10).unwrap_err().to_string();
    assert!(
        error.contains("7 of 20 verdicts are kept") && error.contains("gave up at attempt 3 of 3"),
        "{error}"
    );
    assert_eq!(place.judged_once(), 7);
    dead.store(false, Ordering::SeqCst);
    let judged = place.judge(config(&server), 10).unwrap();
    assert_eq!((firsts(&judged), judged.from_transcript, place.judged_once()), (truth(10), 7, 20));
}

#[test]
fn nobody_listens() {
    let server = Server::start(|_, request| honest(request));
    let config = config(&server);
    drop(server);
    let error = Place::new().judge(config, 2).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("0 of 4 verdicts are kept"), "{error}");
}

#[test]
fn a_run_that_was_killed_in_the_middle_of_a_line_goes_on() {
    let server = Server::start(|_, request| honest(request));
    let place = Place::new();
    place.judge(config(&server), 3).unwrap();
    let whole = std::fs::read(place.transcript()).unwrap();
    let mut cuts: Vec<usize> =
        whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(i, _)| i).collect();
    cuts.extend([0, 1, whole.len() / 2, whole.len() - 1]);
    for cut in cuts {
        std::fs::write(place.transcript(), &whole[..cut]).unwrap();
        let kept = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let before = server.seen().len();
        assert_eq!(firsts(&place.judge(config(&server), 3).unwrap()), truth(3), "{cut}");
        assert_eq!((server.seen().len() - before, place.judged_once()), (6 - kept, 6), "{cut}");
    }
}

#[test]
fn a_refusal_stops_the_run_at_once() {
    for (status, words) in [(401, "refuses the key"), (404, "no such model"), (307, "status 307")] {
        let server = Server::start(move |_, _| Reply::Send(status, "", "no such model".into()));
        let error = Place::new().judge(JudgeConfig { concurrency: 1, ..config(&server) }, 5).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.seen().len(), 1);
    }
    // A question that is too long is left out, unless every one is.
    let server = Server::start(|_, request| match request.question().contains("question 1\n") {
        true => Reply::Send(400, "", "too long".into()),
        false => honest(request),
    });
    let place = Place::new();
    assert_eq!(firsts(&place.judge(config(&server), 3).unwrap()), [Some(1.0), None, Some(0.0)]);
    assert_eq!(server.seen().len(), 6);
    let server = Server::start(|_, _| Reply::Send(400, "", "no such model".into()));
    let error = Place::new().judge(JudgeConfig { concurrency: 1, ..config(&server) }, 50).unwrap_err();
    assert!(error.to_string().contains("no such model"), "{error}");
    assert_eq!(server.seen().len(), 5);
    // A redirection is not followed: the key would go elsewhere.
    let server = Server::start(|_, _| Reply::Send(307, "Location: http://127.0.0.1:1/\r\n", String::new()));
    assert!(Place::new().judge(JudgeConfig { concurrency: 1, ..config(&server) }, 1).is_err());
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn requests_are_limited_in_rate_number_and_cost() {
    let server = Server::start(|_, request| honest(request));
    let rate = JudgeConfig { requests_per_minute: Some(600.0), ..config(&server) };
    Place::new().judge(rate, 3).unwrap();
    let mut times: Vec<Instant> = server.seen().iter().map(|request| request.at).collect();
    times.sort();
    // Six requests a tenth of a second apart.
    assert!(times[5] - times[0] >= Duration::from_millis(450), "{:?}", times[5] - times[0]);

    let place = Place::new();
    let limited = |most| JudgeConfig { max_requests: Some(most), ..config(&server) };
    let error = place.judge(limited(4), 3).unwrap_err().to_string();
    assert!(error.contains("max_requests 4 is reached; 4 of 6 verdicts are kept"), "{error}");
    assert_eq!(firsts(&place.judge(limited(6), 3).unwrap()), truth(3));
    assert_eq!(place.judged_once(), 6);

    // 100 tokens at 1000 a million and 10 at 2000 cost 0.12; a question of 800 bytes and an answer of 256 tokens at most 0.8.
    let cost = |most| JudgeConfig {
        price_per_million_input_tokens: Some(1000.0),
        price_per_million_output_tokens: Some(2000.0),
        max_cost: Some(most),
        concurrency: 1,
        ..config(&server)
    };
    let place = Place::new();
    let error = place.judge(cost(1.5), 20).unwrap_err().to_string();
    assert!(error.contains("max_cost 1.5 is reached"), "{error}");
    let spent: f64 = place.lines().iter().map(|line| line["cost"].as_f64().unwrap()).sum();
    assert!(spent <= 1.5 && place.judged_once() >= 3, "{spent} {}", place.judged_once());
    let judged = place.judge(cost(50.0), 20).unwrap();
    assert!((judged.cost - 40.0 * 0.12).abs() < 1e-9, "{}", judged.cost);
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    for header in ["Retry-After: 1\r\n", "Retry-After: 1.25\r\n"] {
        let server = Server::start(move |before, request| {
            if before == 0 { Reply::Send(429, header, "slow down".into()) } else { honest(request) }
        });
        let began = Instant::now();
        Place::new().judge(JudgeConfig { concurrency: 1, ..config(&server) }, 1).unwrap();
        assert!(began.elapsed() >= Duration::from_secs(1), "{header}");
    }
    // A time that is past is no pause.
    let server = Server::start(|before, request| match before {
        0 => Reply::Send(429, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "slow down".into()),
        1 => Reply::Send(429, "Retry-After: -5\r\n", "slow down".into()),
        _ => honest(request),
    });
    let judged = Place::new().judge(JudgeConfig { concurrency: 1, ..config(&server) }, 1).unwrap();
    assert_eq!((firsts(&judged), server.seen().len()), (truth(1), 4));
}

#[test]
fn several_questions_are_under_way_but_no_more_than_allowed() {
    let server = Server::start(|_, request| {
        std::thread::sleep(Duration::from_millis(30));
        honest(request)
    });
    Place::new().judge(JudgeConfig { concurrency: 3, ..config(&server) }, 6).unwrap();
    let most = server.at_once.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most}");
}

#[test]
fn two_processes_do_not_share_a_transcript() {
    let server = Server::start(|_, request| {
        std::thread::sleep(Duration::from_millis(100));
        honest(request)
    });
    let place = Place::new();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| place.judge(config(&server), 4));
        while server.seen().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let error = place.judge(config(&server), 4).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        assert_eq!(firsts(&first.join().unwrap().unwrap()), truth(4));
    });
    assert_eq!(place.judged_once(), 8);
}

/// Collects what the library logs.
struct Logged(Mutex<String>);

impl log::Log for Logged {
    /// As the program: what ureq logs of the wire at the level of traces is not for it.
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target().starts_with("dpo_lora")
    }

    fn log(&self, record: &log::Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        *self.0.lock().unwrap() += &format!("{} {}\n", record.target(), record.args());
    }

    fn flush(&self) {}
}

static LOGGED: Logged = Logged(Mutex::new(String::new()));

#[test]
fn the_key_is_sent_and_appears_nowhere_else() {
    const KEY: &str = "sk-f00dfacecafe5ec7e7";
    log::set_logger(&LOGGED).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let name = "DPO_LORA_TEST_JUDGE_KEY";
    let Ok(found) = std::env::var(name) else {
        // The variable is set before the process starts: it cannot be set safely in a process with threads.
        let me = std::env::current_exe().unwrap();
        let ran = std::process::Command::new(me)
            .args(["the_key_is_sent_and_appears_nowhere_else", "--exact", "--nocapture"])
            .env(name, KEY)
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{said}");
        assert!(said.contains("1 passed") && !said.contains(KEY));
        return;
    };
    assert_eq!(found, KEY);
    // A server that repeats the key in everything it says.
    let server = Server::start(|before, _| match before {
        0 => Reply::Send(500, "", format!("wrong key {KEY}")),
        1 => Reply::Send(200, "", format!("{{\"error\": {{\"message\": \"{KEY}\"}}}}")),
        2 => Reply::says(&format!("your key is {KEY}")),
        3 => Reply::Send(200, "", format!("broken {KEY}")),
        4 => Reply::says(&format!("{{\"verdict\": \"A\", \"key\": \"{KEY}\"}}")),
        5 => Reply::Send(401, "", format!("Incorrect API key provided: {}", &KEY[..12])),
        _ => Reply::Send(404, "", format!("no {KEY}")),
    });
    let place = Place::new();
    let keyed =
        || JudgeConfig { api_key_env: Some(name.into()), attempts: 9, concurrency: 1, ..config(&server) };
    let mut said = String::new();
    for _ in 0..2 {
        let judge = Judge::new(keyed(), &place.transcript()).unwrap();
        said += &format!("{judge:?} {}\n", judge.judge(&comparisons(2)).unwrap_err());
    }
    assert!(server.seen().iter().all(|it| it.authorization == Some(format!("Bearer {KEY}"))));
    assert_eq!(server.seen().len(), 7);
    let files = std::fs::read_dir(place.0.path()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<String> = files.map(|path| read(&path)).collect();
    let logged = LOGGED.0.lock().unwrap().clone();
    assert!(logged.contains("trying again") && files[0].contains("[hidden]") && place.judged_once() == 1);
    for text in files.iter().chain([&logged, &said]) {
        // Not even its beginning, which some servers repeat.
        assert!(!text.contains("f00dface"), "{text}");
    }
}

fn read(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).unwrap()).unwrap()
}
