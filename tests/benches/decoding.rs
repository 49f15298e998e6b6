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

/// The program's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tokens of a prompt and of a completion.
const PROMPT: usize = 32;
const NEW: usize = 48;
/// Each measurement is repeated, and the best is printed.
const TIMES: usize = 3;

fn main() {
    let compared = std::env::args().any(|arg| arg == "--compared");
    let mut words = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let Some(model) = words.next() else {
        return println!("cargo bench --bench decoding -- MODEL [ADAPTER]");
    };
    if compared {
        let counts: Vec<usize> = words.map(|word| word.parse().unwrap()).collect();
        return against(&model, counts.try_into().unwrap());
    }
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

/// Prints what `generate_against_llama.py` compares: greedy decoding without reading the prompt, and reading a prompt, in
/// tokens per second.
fn against(model: &str, [prompt, before, new, batch]: [usize; 4]) {
    let base = Base::open_with(model, &OpenOptions::on_cpu()).unwrap();
    let adapted = base.with_adapters(&[] as &[PathBuf], TrainedWith::default(), true).unwrap();
    let vocab = adapted.decoder.spec().vocab_size;
    let tokens = |sequence: usize, count: usize| -> Vec<u32> {
        (0..count).map(|i| ((7919 * (i + 1) + 104_729 * sequence) % vocab) as u32).collect()
    };
    let seconds = |sequences: usize, new: usize| {
        let sampling = SamplingConfig { temperature: 0.0, top_k: None, top_p: None, seed: 0 };
        let request = |i| Request { prompt: tokens(i, before), sampling: sampling.clone(), completions: 1 };
        let requests = (0..sequences).map(request).collect();
        let limits = Limits { max_new_tokens: new, ..Limits::default() };
        let begun = Instant::now();
        let side = (&adapted.policy, Pass::Reference);
        let rollouts = Rollouts::new(&adapted.decoder, &adapted.tokenizer, requests, side, &limits).unwrap();
        for completion in rollouts {
            assert_eq!(completion.unwrap().tokens.len(), new);
        }
        begun.elapsed().as_secs_f64()
    };
    let decoding = |sequences: usize| {
        let first = seconds(sequences, 1);
        (sequences * new) as f64 / (seconds(sequences, new + 1) - first)
    };
    let reading = || {
        let (all, mut cache) = (tokens(0, prompt), adapted.decoder.new_cache());
        let begun = Instant::now();
        adapted.decoder.step(&all, &mut cache, &adapted.policy, Pass::Reference).unwrap();
        prompt as f64 / begun.elapsed().as_secs_f64()
    };
    reading();
    decoding(batch);
    let (one, many, read) = (decoding(1), decoding(batch), reading());
    println!(r#"{{"one sequence": {one}, "{batch} sequences": {many}, "prompt": {read}}}"#);
}
