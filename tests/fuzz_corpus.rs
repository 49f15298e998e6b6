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

/// Random changes to the corpus where there is no cargo-fuzz: no coverage leads it, so it finds less.
///
/// ```sh
/// FUZZ_TARGET=parquet FUZZ_SECONDS=1200 cargo test --test fuzz_corpus -- --ignored --nocapture
/// ```
///
/// The input that is being run is in `fuzz/state/NAME-SEED.input`, so that one that ends the process is kept.
#[test]
#[ignore = "runs for FUZZ_SECONDS"]
fn random_changes_to_the_corpus_are_taken_or_refused() {
    let wanted = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seconds, seed) = (number("FUZZ_SECONDS").unwrap_or(60), number("FUZZ_SEED").unwrap_or(1));
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut paths: Vec<_> =
        std::fs::read_dir(fuzz.join("corpus").join(&wanted)).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    std::fs::create_dir_all(fuzz.join("state")).unwrap();
    let current = fuzz.join(format!("state/{wanted}-{seed}.input"));
    let mut random = Random(seed);
    let (begun, mut runs, mut slowest) = (std::time::Instant::now(), 0_u64, 0.0_f64);
    while begun.elapsed().as_secs() < seconds {
        let input = random.changed(&seeds);
        std::fs::write(&current, &input).unwrap();
        let started = std::time::Instant::now();
        fuzz::run(&wanted, &input);
        let took = started.elapsed().as_secs_f64();
        if took > slowest {
            slowest = took;
            std::fs::write(current.with_extension("slowest"), &input).unwrap();
        }
        runs += 1;
        if runs.is_multiple_of(10_000) {
            println!("{wanted}: {runs} runs in {:?}, the slowest took {slowest:.2} s", begun.elapsed());
        }
    }
    println!("{wanted}: {runs} runs in {:?}, the slowest took {slowest:.2} s", begun.elapsed());
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    /// A seed with a few of its bytes changed, removed, repeated, or taken from another.
    fn changed(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let index = self.below(seeds.len());
        let mut bytes = seeds[index].clone();
        for _ in 0..=self.below(6) {
            let (at, length) = (self.below(bytes.len() + 1), 1 + self.below(16));
            let end = (at + length).min(bytes.len());
            match self.below(8) {
                0 | 1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 if at < bytes.len() => {
                    bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, self.next() as u8][self.below(6)]
                }
                3 => drop(bytes.drain(at..end)),
                4 => drop(bytes.splice(at..at, (0..length).map(|_| 0xFF).collect::<Vec<_>>())),
                5 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part.repeat(1 + self.below(40)));
                }
                6 => {
                    let other = self.below(seeds.len());
                    let from = self.below(seeds[other].len() + 1);
                    let part = &seeds[other][from..(from + length * 4).min(seeds[other].len())];
                    bytes.splice(at..end, part.iter().copied());
                }
                // A number of many bytes, in either order.
                _ => {
                    let wide = (1_u64 << self.below(64)).wrapping_sub(self.below(2) as u64).to_le_bytes();
                    bytes.splice(at..end, wide[..1 + self.below(8)].iter().copied());
                }
            }
        }
        bytes.truncate(16 << 10);
        bytes
    }
}
