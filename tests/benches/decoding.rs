//! The speed of decoding on the processor: tokens per second of sampling alone and of 4, 16 and 64 sequences together, and
//! the ratio to one.
//!
//!     python tests/device/make_models.py shapes gemma-3-270m
//!     cargo bench --bench decoding -- shapes/gemma-3-270m            # random weights: what they say means nothing
//!     cargo bench --bench decoding -- MODEL ADAPTER                  # with an adapter
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::time::Instant;

use dpo_lora::generate::{Limits, Request, Rollouts, SamplingConfig};
use dpo_lora::model::pass::Pass;
use dpo_lora::random::Stream;
use dpo_lora::toolkit::{Base, OpenOptions, TrainedWith};

/// Tokens of a prompt and of a completion.
const PROMPT: usize = 32;
const NEW: usize = 48;
/// Each measurement is repeated, and the best is printed.
const TIMES: usize = 3;

fn main() {
    let mut words = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let Some(model) = words.next() else {
        return println!("cargo bench --bench decoding -- MODEL [ADAPTER]");
    };
    let base = Base::open_with(&model, &OpenOptions::on_cpu()).unwrap();
    let adapters: Vec<PathBuf> = words.map(PathBuf::from).collect();
    let adapted = base.with_adapters(&adapters, TrainedWith::default(), true).unwrap();
    let pass = if adapters.is_empty() { Pass::Reference } else { Pass::Policy };
    let stream = Stream::new(1, "prompts");
    let vocab = adapted.decoder.spec().vocab_size;
    let request = |i: usize, completions| {
        let tokens = stream.child(i as u64);
        let prompt = (0..PROMPT).map(|at| tokens.below(at as u64, vocab) as u32).collect();
        let sampling = SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed: i as u64 };
        Request { prompt, sampling, completions }
    };
    let limits = Limits { max_new_tokens: NEW, ..Limits::default() };
    let seconds = |requests: &[Request]| {
        let begun = Instant::now();
        let side = (&adapted.policy, pass);
        let rollouts =
            Rollouts::new(&adapted.decoder, &adapted.tokenizer, requests.to_vec(), side, &limits).unwrap();
        let tokens: usize = rollouts.map(|completion| completion.unwrap().tokens.len()).sum();
        (tokens as f64, begun.elapsed().as_secs_f64())
    };
    println!(
        "{model}, {} threads, prompts of {PROMPT} tokens, completions of {NEW}",
        rayon::current_num_threads()
    );
    let mut alone = 0.0;
    for (what, count, completions) in [
        ("1 sequence", 1, 1),
        ("4 prompts", 4, 1),
        ("16 prompts", 16, 1),
        ("16 of one prompt", 1, 16),
        ("64 prompts", 64, 1),
    ] {
        let requests: Vec<Request> = (0..count).map(|i| request(i, completions)).collect();
        let best = (0..TIMES).map(|_| seconds(&requests)).map(|(tokens, seconds)| tokens / seconds);
        let best = best.fold(0.0, f64::max);
        alone = if alone == 0.0 { best } else { alone };
        println!("{what:<18} {best:>8.1} tokens/s, {:>5.2} times one sequence", best / alone);
    }
}
