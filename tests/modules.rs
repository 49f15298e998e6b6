//! What is trained beside or instead of plain LoRA matrices, against PEFT.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

#[path = "modules/eva.rs"]
mod eva;
#[path = "modules/loraplus.rs"]
mod loraplus;
#[path = "modules/pissa.rs"]
mod pissa;

use common::{Model, assert_near, ids, numbers};
use dpo_lora::data::{Example, Kind, PackedBatch};
use dpo_lora::model::pass::Pass;

/// The log-prob of every token but the first.
pub fn logps(model: &Model, ids: &[u32], pass: Pass) -> Vec<f64> {
    let batch = text(ids);
    let rows: Vec<u32> = (0..ids.len() as u32 - 1).collect();
    let logits = model.logits(&batch, &rows, pass).unwrap();
    let of = |(row, target): (usize, &u32)| {
        let logits = logits.row(row);
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        f64::from(logits[*target as usize]) - sum.ln()
    };
    ids[1..].iter().enumerate().map(of).collect()
}

/// A batch of one text, of which every token but the first is scored, and one that is not used.
pub fn text(ids: &[u32]) -> PackedBatch {
    let example = common::examples("pairs.jsonl", &common::fixture("models/llama"))[0].clone();
    let completions = vec![ids[1..].to_vec(), vec![3, 4]];
    common::pack(&[Example { prompt: ids[..1].to_vec(), completions, kind: Kind::PAIR, ..example }])
}
