//! `dpo-lora devices`: the devices of this machine, and what is missing.

use serde::Serialize;

use super::output::{print_json, print_text};
use crate::cli::DevicesArgs;
use crate::device::cuda::{self, Survey};
use crate::error::Result;
use crate::ops::gemm::Isa;

/// The object of `--json`.
#[derive(Serialize)]
struct Found {
    cpu: Cpu,
    driver: Option<String>,
    cublaslt: Option<String>,
    cublaslt_path: Option<String>,
    cuda: Vec<Card>,
    missing: Vec<String>,
}

#[derive(Serialize)]
struct Cpu {
    threads: usize,
    instructions: &'static str,
}

#[derive(Serialize)]
struct Card {
    device: String,
    name: String,
    compute_capability: String,
    memory: usize,
    usable: bool,
}

pub(super) fn run(args: &DevicesArgs) -> Result<()> {
    let found = found(cuda::survey());
    if args.json { print_json(&found) } else { print_text(&described(&found)) }
}

fn found(survey: Survey) -> Found {
    let complete = survey.blas.is_some();
    let card = |card: cuda::Card| Card {
        device: format!("cuda:{}", card.ordinal),
        usable: complete && card.is_new_enough(),
        name: card.name,
        compute_capability: format!("{}.{}", card.capability.0, card.capability.1),
        memory: card.memory,
    };
    let (version, path) = survey.blas.map_or((None, None), |(version, path)| (Some(version), Some(path)));
    Found {
        cpu: Cpu {
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            instructions: Isa::detected().name(),
        },
        driver: survey.driver,
        cublaslt: version,
        cublaslt_path: path.map(|path| path.display().to_string()),
        cuda: survey.cards.into_iter().map(card).collect(),
        missing: survey.missing,
    }
}

fn described(found: &Found) -> String {
    let Cpu { threads, instructions } = found.cpu;
    let mut text = format!("cpu      {threads} threads, {instructions}\n");
    for card in &found.cuda {
        let Card { device, name, compute_capability, memory, usable } = card;
        let unusable = if *usable { "" } else { "; cannot be used" };
        text.push_str(&format!(
            "{device:<8} {name}, {:.1} GB, compute capability {compute_capability}{unusable}\n",
            *memory as f64 / 1e9
        ));
    }
    if let Some(driver) = &found.driver {
        text.push_str(&format!("driver   CUDA {driver}\n"));
    }
    if let (Some(version), Some(path)) = (&found.cublaslt, &found.cublaslt_path) {
        text.push_str(&format!("cuBLASLt {version} ({path})\n"));
    }
    found.missing.iter().for_each(|missing| text.push_str(&format!("missing  {missing}\n")));
    text
}
