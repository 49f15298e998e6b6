//! Trains an adapter on pairs that the program holds itself, and completes a prompt with it.
//!
//!     cargo run --release --example train_in_memory [RUN_DIRECTORY [BASE]]
#![allow(clippy::print_stdout)]

use dpo_lora::data::{Input, records};
use dpo_lora::report::{Console, Verbosity};
use dpo_lora::{Base, LoraConfig, Result, SamplingConfig, TrainConfig, Trainer};

const PAIRS: &str = r#"
{"prompt": "The film is about a sailor.", "chosen": " The story charms the viewer.", "rejected": " The story bores the viewer."}
{"prompt": "The film is about a widow.", "chosen": " The actors are wonderful.", "rejected": " The actors are wooden."}
"#;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let run = arguments.next().unwrap_or_else(|| "runs/in-memory".into());
    let base = Base::open(&arguments.next().unwrap_or_else(|| "tiny-reviews".into()))?;

    let pairs = base.tokenize(&records::load(&[Input::text("pairs", PAIRS)])?)?;
    let trained = Trainer::builder(&base, pairs.clone())
        .lora(LoraConfig { r: 8, lora_alpha: 16.0, ..LoraConfig::default() })
        .dpo(0.1)
        .training(TrainConfig { max_steps: Some(20), learning_rate: 1e-3, ..TrainConfig::default() })
        .eval(pairs)
        .output(run)
        .report_to(Console::stderr(Verbosity::Normal))
        .run()?;

    let margin = trained.evaluation.as_ref().and_then(|found| found.metrics().margin()).unwrap_or(0.0);
    println!("{}: reward margin {margin:.3} on the pairs it was trained on", trained.adapter.display());
    let policy = base.with_adapter(&trained.adapter)?;
    let greedy = SamplingConfig { temperature: 0.0, top_k: None, top_p: None, seed: 0 };
    println!("{}", policy.generate("The film is about a sailor.", 12, greedy)?.text);
    Ok(())
}
