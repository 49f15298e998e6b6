//! Trains an adapter on pairs that the program holds itself, and saves it.
//!
//!     cargo run --release --example train_in_memory [RUN_DIRECTORY [BASE_DIRECTORY]]
#![allow(clippy::print_stdout)]

use std::path::PathBuf;

use dpo_lora::adapter::{fingerprint::fingerprint, peft::Origin};
use dpo_lora::data::{ChatTokenizer, Input, Truncation, records, tokenize_all};
use dpo_lora::error::Result;
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::objective::ObjectiveConfig;
use dpo_lora::report::{Console, Reporter, Verbosity};
use dpo_lora::train::config::TrainConfig;
use dpo_lora::train::reference::ReferenceCache;
use dpo_lora::train::trainer::{Identity, Setup, Trainer};
use dpo_lora::train::watch::WatchConfig;
use dpo_lora::trainable::{Adapters, Lora, Policy};
use dpo_lora::weights::SafetensorsSource;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny-reviews/model");
const PAIRS: &str = r#"
{"prompt": "The film is about a sailor.", "chosen": " The story charms the viewer.", "rejected": " The story bores the viewer."}
{"prompt": "The film is about a widow.", "chosen": " The actors are wonderful.", "rejected": " The actors are wooden."}
"#;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let run = PathBuf::from(arguments.next().unwrap_or_else(|| "runs/in-memory".into()));
    let base = PathBuf::from(arguments.next().unwrap_or_else(|| BASE.into()));

    let source = SafetensorsSource::open(&base)?;
    let spec = families::spec(&ConfigJson::open(&base)?)?;
    let decoder = Decoder::load(spec, &source, None)?;
    let loras = decoder.spec().linears().map(|linear| Lora::new(linear, 8, 16.0, 16.0 / 8.0));
    let policy = Policy::of(Adapters::initialised(loras, 42)?);

    let tokenizer = ChatTokenizer::load(&base, None)?;
    let records = records::load(&[Input::text("pairs", PAIRS)])?;
    let pairs = tokenize_all(&tokenizer, &records, &Truncation::default())?.examples;
    let mut trainer = Trainer::new(Setup {
        decoder,
        policy,
        train: pairs.clone(),
        eval: pairs,
        objective: ObjectiveConfig::default(),
        config: TrainConfig { max_steps: Some(20), learning_rate: 1e-3, ..TrainConfig::default() },
        watch: WatchConfig::default(),
        dropout: 0.0,
        seed: 42,
        reference: ReferenceCache::in_memory(),
        origin: Origin {
            base: base.display().to_string(),
            revision: None,
            fingerprint: Some(fingerprint(&source)?),
        },
        run: run.clone(),
        identity: Identity::default(),
        stop: Default::default(),
    })?;
    trainer.run(&mut Reporter::new().with(Console::stderr(Verbosity::Normal)))?;
    let margin = trainer.evaluate()?.map_or(0.0, |found| found.reward_margin);
    println!("{}: reward margin {margin:.3} on the pairs it was trained on", run.join("adapter").display());
    Ok(())
}
