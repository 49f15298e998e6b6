//! Invalid input of any kind gives one error that says what is wrong, where, and what to do. Nothing panics, and no
//! half-written output remains.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::program::{Place, Ran};

#[path = "bad_inputs/adapters.rs"]
mod adapters;
#[path = "bad_inputs/configuration.rs"]
mod configuration;
#[path = "bad_inputs/models.rs"]
mod models;
#[path = "bad_inputs/records.rs"]
mod records;
#[path = "bad_inputs/tokenizers.rs"]
mod tokenizers;

/// Runs a command that must be refused with `code`; the message must contain every one of `parts`.
fn refused(place: &Place, args: &[&str], code: i32, parts: &[&str]) -> String {
    let Ran { code: found, stdout, stderr } = place.run(args);
    assert_eq!((found, stdout.as_str()), (Some(code), ""), "{args:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{args:?}: {stderr}");
    for word in ["panicked", "RUST_BACKTRACE", "tensor operation failed"] {
        assert!(!stderr.contains(word), "{args:?}: {stderr}");
    }
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing in {args:?}: {stderr}");
    }
    stderr
}

/// Does the same for `train -c run.yaml`. The run directory must remain unused, so that the next attempt is not
/// refused.
fn train_refused(place: &Place, code: i32, parts: &[&str]) {
    refused(place, &["train", "-c", "run.yaml"], code, parts);
    for left in ["config.yaml", "metrics.jsonl", "checkpoints", "adapter"] {
        assert!(!place.path("run").join(left).exists(), "{parts:?}: run/{left} is left");
    }
}
