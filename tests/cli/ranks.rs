//! Several processes that train together, over TCP, end with the bytes of one process. `tests/mpi.rs` does the same over MPI.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::program::{Place, Ran, finish};

/// A short run with dropout, accumulation and checkpoints, whose last step of an epoch has fewer micro-batches.
fn recipe(place: &Place, accumulation: usize, more: &[(&str, Value)]) {
    let mut settings = vec![
        ("data.eval", json!(0.3)),
        ("train.max_steps", json!(7)),
        ("train.eval_steps", json!(3)),
        ("train.save_steps", json!(2)),
        ("train.threads", json!(1)),
        ("train.per_device_train_batch_size", json!(1)),
        ("train.gradient_accumulation_steps", json!(accumulation)),
        ("train.sample_prompts", json!(0)),
    ];
    settings.extend(more.iter().map(|(key, value)| (*key, value.clone())));
    place.llama_recipe(&settings);
}

/// Starts the program as so many ranks, as `torchrun` does.
pub fn start(place: &Place, size: usize, args: &[&str]) -> Vec<Child> {
    start_in(place, size, |_| place.path("."), |_| args.to_vec())
}

/// Starts the program as so many ranks, each in a directory and with arguments of its own.
pub fn start_in<'a>(
    place: &Place,
    size: usize,
    directory: impl Fn(usize) -> PathBuf,
    args: impl Fn(usize) -> Vec<&'a str>,
) -> Vec<Child> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let start = |rank: usize| {
        let mut command = place.command(&args(rank));
        command.current_dir(directory(rank));
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port).spawn().unwrap()
    };
    (0..size).map(start).collect()
}

pub fn together(place: &Place, size: usize, args: &[&str]) -> Vec<Ran> {
    ended(start(place, size, args)).0
}

fn train(place: &Place, size: usize, run: &str) {
    let output = format!("output_dir={run}");
    let ran = together(place, size, &["train", "-c", "run.yaml", "--set", &output]);
    for (rank, ran) in ran.into_iter().enumerate() {
        assert_eq!(ran.code, Some(0), "rank {rank}: {}", ran.stderr);
        if rank > 0 {
            assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()), "rank {rank} prints");
        }
    }
}

#[test]
fn the_bytes_are_those_of_one_rank_with_the_accumulation() {
    let place = Place::new();
    recipe(&place, 12, &[]);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    for size in [2, 3, 4] {
        recipe(&place, 12 / size, &[]);
        let run = format!("run-{size}");
        train(&place, size, &run);
        assert_eq!(place.adapter(&run), place.adapter("whole"), "{size} ranks");
        assert_eq!(place.metrics(&run), place.metrics("whole"), "{size} ranks");
    }
}

#[test]
fn tables_prefixes_and_losses_of_whole_batches_too() {
    for (name, more) in [
        ("tables", vec![("lora.modules_to_save", json!(["embed_tokens"]))]),
        ("rows", vec![("lora.trainable_token_indices", json!([3, 5, 7]))]),
        ("prefix", vec![("lora.prefix_tuning", json!({"num_virtual_tokens": 4}))]),
        ("texts", vec![("objective.loss_type", json!("sft"))]),
        ("noise", vec![("train.neftune_noise_alpha", json!(5.0)), ("train.max_tokens_per_batch", json!(40))]),
        ("moving", vec![("train.sync_ref_model", json!(true)), ("train.ref_model_sync_steps", json!(2))]),
    ] {
        let mut more = more;
        if name == "prefix" {
            more.push(("lora.lora_dropout", json!(0.0)));
            more.push(("lora.r", json!(16)));
            more.push(("lora.lora_alpha", json!(32)));
        }
        if name != "texts" {
            more.push(("objective.use_weighting", json!(name == "rows")));
        }
        more.push(("train.max_steps", json!(3)));
        let place = Place::new();
        recipe(&place, 4, &more);
        let whole = place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]);
        assert_eq!(whole.code, Some(0), "{name}: {}", whole.stderr);
        recipe(&place, 2, &more);
        train(&place, 2, "run");
        assert_eq!(place.adapter("run"), place.adapter("whole"), "{name}");
        assert_eq!(place.metrics("run"), place.metrics("whole"), "{name}");
    }
}

#[test]
fn a_run_goes_on_with_the_accumulation_that_gives_the_same_steps() {
    let place = Place::new();
    let plain = [("train.lr_scheduler_type", json!("constant_with_warmup"))];
    recipe(&place, 6, &plain);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    place.run(&["train", "-c", "run.yaml", "--set", "train.max_steps=4"]).ok();
    let resumed = |accumulation: usize| {
        recipe(&place, accumulation, &plain);
        together(&place, 2, &["train", "-c", "run.yaml", "--resume"])
    };
    let refused = resumed(4);
    assert_eq!(refused[0].code, Some(2));
    let words = "gradient_accumulation_steps is 4 on 2 ranks, and a step of the run has 6 micro-batches (6 on 1 rank). Set it to 3";
    assert!(refused[0].stderr.contains(words), "{}", refused[0].stderr);
    assert!(refused[1].stderr.contains("No step was made"), "{}", refused[1].stderr);
    let ran = resumed(3);
    assert_eq!([ran[0].code, ran[1].code], [Some(0), Some(0)], "{} {}", ran[0].stderr, ran[1].stderr);
    assert_eq!(place.adapter("run"), place.adapter("whole"));
}

#[test]
fn ranks_that_are_started_differently_are_told_so() {
    let place = Place::new();
    recipe(&place, 1, &[]);
    let train = ["train", "-c", "run.yaml"];
    for (other, words) in [
        (
            vec!["eval", "--base", "tiny-reviews", "--data", "tiny-reviews/eval.jsonl"],
            "its command: eval instead of train",
        ),
        (
            [&train[..], &["--dry-run"]].concat(),
            "--resume or --auto-resume: --dry-run instead of none of them",
        ),
        (
            [&train[..], &["--auto-resume"]].concat(),
            "--resume or --auto-resume: resumed instead of none of them",
        ),
    ] {
        let args = |rank: usize| if rank == 1 { other.clone() } else { train.to_vec() };
        let (ran, seconds) = ended(start_in(&place, 2, |_| place.path("."), args));
        assert!(seconds < 30.0, "{seconds} s");
        for ran in ran {
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(
                ran.stderr.contains("rank 1 of 2 (host ") && ran.stderr.contains(words),
                "{}",
                ran.stderr
            );
            assert!(!ran.stderr.contains("continues from"), "{}", ran.stderr);
        }
        assert!(!place.path("run").exists());
    }
}

#[test]
fn a_rank_without_its_number_does_not_train_a_run_of_its_own() {
    let place = Place::new();
    recipe(&place, 1, &[]);
    let mut command = place.command(&["train", "-c", "run.yaml"]);
    let ran = finish(command.env("WORLD_SIZE", "2").env("MASTER_ADDR", "127.0.0.1").spawn().unwrap());
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("RANK is not set"), "{}", ran.stderr);
    assert!(!place.path("run").exists());
}

#[test]
fn an_address_that_does_not_resolve_is_told_at_once() {
    let place = Place::new();
    recipe(&place, 1, &[]);
    let mut command = place.command(&["train", "-c", "run.yaml"]);
    command.env("RANK", "1").env("WORLD_SIZE", "2").env("MASTER_ADDR", "no-such-host.invalid");
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    let begun = Instant::now();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.contains("rank 0 at no-such-host.invalid:29500 is not found"), "{first}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

fn lines(place: &Place) -> usize {
    std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap_or_default().lines().count()
}

pub fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits for all, and returns them with the seconds it took.
pub fn ended(children: Vec<Child>) -> (Vec<Ran>, f64) {
    let start = Instant::now();
    // One that nobody reads would wait with a full pipe.
    let waiting: Vec<_> =
        children.into_iter().map(|child| std::thread::spawn(move || finish(child))).collect();
    let ran = waiting.into_iter().map(|waiting| waiting.join().unwrap()).collect();
    (ran, start.elapsed().as_secs_f64())
}

const AUTO: [&str; 4] = ["train", "-c", "run.yaml", "--auto-resume"];

#[test]
fn a_rank_that_is_killed_ends_all_and_another_number_of_ranks_goes_on() {
    let place = Place::new();
    let long =
        [("train.max_steps", json!(60)), ("train.logging_steps", json!(1)), ("train.eval_steps", json!(30))];
    recipe(&place, 12, &long);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    recipe(&place, 4, &long);
    for killed in 0..3 {
        let children = start(&place, 3, &AUTO);
        let before = lines(&place);
        let begun = Instant::now();
        while lines(&place) < before + 4 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(&children[killed], "-KILL");
        let (ran, seconds) = ended(children);
        assert!(seconds < 30.0, "{seconds} s");
        for (rank, ran) in ran.iter().enumerate().filter(|(rank, _)| *rank != killed) {
            assert_eq!(ran.code, Some(1), "rank {rank}: {}", ran.stderr);
            let named = format!("rank {killed} of 3 (host ");
            assert!(ran.stderr.contains(&named) && ran.stderr.contains("--auto-resume"), "{}", ran.stderr);
        }
    }
    // The rest on two ranks, by the directory, and on one.
    let children = start(&place, 2, &["train", "--resume", "run", "--set", "train.max_steps=60"]);
    let (ran, _) = ended(children);
    assert_eq!(ran[0].code, Some(0), "{}", ran[0].stderr);
    assert!(ran[0].stderr.contains("started on 3 rank(s) and continues on 2"), "{}", ran[0].stderr);
    assert_eq!(place.adapter("run"), place.adapter("whole"));
    assert_eq!(place.metrics("run"), place.metrics("whole"));
}

#[test]
fn a_rank_that_hangs_is_named_and_ends_all_in_time() {
    for hanging in [1, 0] {
        let place = Place::new();
        recipe(&place, 2, &[("train.max_steps", json!(100_000)), ("train.rank_timeout", json!(2))]);
        let mut children = start(&place, 2, &AUTO);
        while lines(&place) < 3 {
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(&children[hanging], "-STOP");
        let stopped = children.remove(hanging);
        let (ran, seconds) = ended(children);
        signal(&stopped, "-KILL");
        finish(stopped);
        assert!(seconds < 10.0, "{seconds} s");
        assert_eq!(ran[0].code, Some(1));
        assert!(ran[0].stderr.contains(&format!("rank {hanging} of 2 (host ")), "{}", ran[0].stderr);
        assert!(ran[0].stderr.contains("no sign of life for 2 s"), "{}", ran[0].stderr);
    }
}

#[test]
fn a_signal_to_one_rank_stops_all_after_the_same_step() {
    let place = Place::new();
    recipe(&place, 6, &[("train.max_steps", json!(400))]);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole", "--set", "train.max_steps=400"]).ok();
    recipe(&place, 3, &[("train.max_steps", json!(400))]);
    let children = start(&place, 2, &AUTO);
    while lines(&place) < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&children[1], "-TERM");
    let (ran, _) = ended(children);
    assert_eq!([ran[0].code, ran[1].code], [Some(143), Some(143)], "{} {}", ran[0].stderr, ran[1].stderr);
    assert!(ran[0].stderr.contains("interrupted after step"), "{}", ran[0].stderr);
    recipe(&place, 6, &[("train.max_steps", json!(400))]);
    place.run(&AUTO).ok();
    assert_eq!(place.adapter("run"), place.adapter("whole"));
}

#[test]
fn other_data_on_one_rank_are_refused_by_name() {
    let place = Place::new();
    recipe(&place, 1, &[]);
    let pairs = std::fs::read_to_string(crate::common::fixture("pairs.jsonl")).unwrap();
    let cut: Vec<&str> = pairs.lines().skip(1).collect();
    for (rank, lines) in [(0, pairs.clone()), (1, cut.join("\n"))] {
        std::fs::create_dir_all(place.path(&format!("rank-{rank}"))).unwrap();
        place.write(&format!("rank-{rank}/pairs.jsonl"), lines);
    }
    let args = vec!["train", "-c", "../run.yaml", "--set", "data.train=pairs.jsonl"];
    let (ran, _) = ended(start_in(&place, 2, |rank| place.path(&format!("rank-{rank}")), |_| args.clone()));
    for ran in ran {
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("rank 1 of 2 (host "), "{}", ran.stderr);
        assert!(ran.stderr.contains("differs from rank 0 in the training records"), "{}", ran.stderr);
        // There is no checkpoint to go on from.
        assert!(ran.stderr.contains("No step was made"), "{}", ran.stderr);
    }
}

#[test]
fn another_base_on_one_rank_is_refused_by_name() {
    let place = Place::new();
    recipe(&place, 1, &[]);
    for (rank, model) in [(0, "llama"), (1, "llama"), (2, "mistral")] {
        let from = crate::common::fixture("models").join(model);
        crate::common::program::copy(&from, &place.path(&format!("rank-{rank}/model")));
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let start = |rank: usize| {
        let mut command = place.command(&["train", "-c", "../run.yaml", "--set", "model.base=model"]);
        command.current_dir(place.path(&format!("rank-{rank}"))).env("RANK", rank.to_string());
        command.env("WORLD_SIZE", "3").env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
        command.spawn().unwrap()
    };
    let (ran, seconds) = ended((0..3).map(start).collect());
    assert!(seconds < 30.0, "{seconds} s");
    for ran in ran {
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("rank 2 of 3 (host "), "{}", ran.stderr);
        assert!(ran.stderr.contains("differs from rank 0 in "), "{}", ran.stderr);
    }
}

#[test]
fn a_run_that_diverges_ends_all_ranks() {
    let place = Place::new();
    let wild = [("train.learning_rate", json!(1e39)), ("train.lr_scheduler_type", json!("constant"))];
    recipe(&place, 2, &wild);
    let (ran, seconds) =
        ended(start(&place, 2, &["train", "-c", "run.yaml", "--set", "train.warmup_steps=0"]));
    assert!(seconds < 30.0, "{seconds} s");
    for ran in ran {
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("the adapter cannot be used after step 1"), "{}", ran.stderr);
    }
}

#[test]
fn the_configuration_is_that_of_rank_0_and_ipv6_connects() {
    if let Err(e) = TcpListener::bind("[::1]:0") {
        eprintln!("this machine has no ::1 ({e}): IPv6 is not tested");
        return;
    }
    let place = Place::new();
    recipe(&place, 4, &[]);
    place.run(&["train", "-c", "run.yaml", "--set", "output_dir=whole"]).ok();
    recipe(&place, 2, &[]);
    let port = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        // Rank 1 has another learning rate, which does not count.
        let rate = if rank == 1 { "train.learning_rate=0.5" } else { "train.learning_rate=0.001" };
        let mut command = place.command(&["train", "-c", "run.yaml", "--set", rate]);
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2");
        command.env("MASTER_ADDR", format!("[::1]:{port}")).spawn().unwrap()
    };
    let (ran, _) = ended(vec![start(0), start(1)]);
    assert_eq!([ran[0].code, ran[1].code], [Some(0), Some(0)], "{} {}", ran[0].stderr, ran[1].stderr);
    assert_eq!(place.adapter("run"), place.adapter("whole"));
}

#[test]
fn an_error_of_rank_0_is_told_by_all_and_what_ranks_do_not_train_is_refused() {
    let place = Place::new();
    recipe(&place, 1, &[]);
    let ran = together(&place, 2, &["train", "-c", "run.yaml", "--set", "lora.r=0"]);
    assert_eq!(ran[0].code, Some(2));
    assert!(ran[0].stderr.contains("lora.r is 0"), "{}", ran[0].stderr);
    assert!(
        ran[1].stderr.contains("rank 0 of 2") && ran[1].stderr.contains("lora.r is 0"),
        "{}",
        ran[1].stderr
    );
}

#[test]
#[cfg(not(feature = "mpi"))]
fn copies_that_mpirun_starts_are_refused() {
    let place = Place::new();
    recipe(&place, 1, &[]);
    let mut command = place.command(&["train", "-c", "run.yaml"]);
    command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", "1");
    let ran = finish(command.spawn().unwrap());
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--features mpi") && ran.stderr.contains("MASTER_ADDR"), "{}", ran.stderr);
    assert!(!place.path("run").exists());
}
