//! Log-probs of preference pairs under a base, with and without an adapter.
//!
//!     cargo run --release --example score_pairs [PAIRS.jsonl [BASE [ADAPTER_DIRECTORY]]]
#![allow(clippy::print_stdout)]

use dpo_lora::{Base, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default: &str| arguments.get(i).map_or(default, String::as_str).to_string();
    let base = Base::open(&argument(1, "tiny-reviews"))?;
    let policy = base.with_adapter(argument(2, "adapters/tiny-reviews-favourable"))?;
    let pairs = policy.pairs(&argument(0, "tiny-reviews/eval.jsonl"))?;
    println!("{:>6} {:>12} {:>12} {:>12}", "pair", "role", "log-prob", "reference");
    for completion in policy.score(&pairs)?.iter().take(10) {
        let role = format!("{:?}", completion.role);
        let reference = completion.ref_logp.unwrap_or(f64::NAN);
        println!("{:>6} {role:>12} {:12.4} {reference:12.4}", completion.group, completion.logp);
    }
    println!("accuracy {:.3}", policy.evaluate(&pairs)?.accuracy().unwrap_or(f64::NAN));
    Ok(())
}
