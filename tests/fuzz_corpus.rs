//! The committed corpus of every fuzz target: no panic, and no more memory at once than the input justifies.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

#[test]
fn every_input_of_the_corpus_is_taken_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    // One after another: the allocator counts for the whole process.
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
