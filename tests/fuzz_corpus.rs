//! The committed corpus of every fuzz target: no panic, and never more memory than the input justifies.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of panics that were reported.
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// This is the only test of its process, because the allocator and the hook count for all threads.
#[test]
fn every_input_of_the_corpus_is_taken_or_refused() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        TOLD.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    the_corpus();
    // One file makes the tokenizers library panic, which becomes an error and is not reported; other panics are.
    assert_eq!(TOLD.load(Ordering::Relaxed), 0);
    assert!(panic::catch_unwind(|| panic!("of this thread")).is_err());
    assert!(std::thread::spawn(|| panic!("of another")).join().is_err());
    assert_eq!(TOLD.load(Ordering::Relaxed), 2);
}

fn the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for target in fuzz::TARGETS {
        let directory = corpus.join(target.name);
        let mut paths: Vec<_> =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= 3, "{} has no corpus", target.name);
        for path in paths {
            println!("{}", path.display());
            fuzz::run(target.name, &std::fs::read(&path).unwrap());
        }
    }
}
