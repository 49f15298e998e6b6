//! `dpo-lora push`: an adapter and its model card as a repository of the Hub.

use std::path::Path;

use super::output::{print, say};
use crate::adapter::{peft, read};
use crate::cli::PushArgs;
use crate::error::{Error, Result};
use crate::hub::{Content, Hub, HubId, Upload, files_of};
use crate::report::{log, sparkline};
use crate::toolkit::TrainedWith;

/// The model card's file.
const CARD: &str = "README.md";

/// Characters of a curve in the card.
const WIDTH: usize = 40;

/// Curves of the card: metric, and what it is called.
const CURVES: [(&str, &str); 5] = [
    ("loss", "training loss"),
    ("rewards/margins", "reward margin"),
    ("eval_loss", "held-out loss"),
    ("eval_logps/accuracies", "held-out accuracy by log-prob"),
    ("eval_kl", "KL from the reference, nats"),
];

pub(super) fn run(args: &PushArgs) -> Result<()> {
    let id = HubId::parse(&args.repository)?;
    let directory = read::located(&args.adapter)?;
    if !directory.join(peft::CONFIG).is_file() {
        return Err(Error::Config(format!(
            "{} is not a PEFT directory, which is what the Hub's programs load; write one with `dpo-lora export --format peft`",
            directory.display()
        )));
    }
    let (mut files, left_out) = files_of(&directory)?;
    if !left_out.is_empty() {
        say(&format!(
            "not uploaded, because it is not known as a part of an adapter: {}",
            left_out.join(", ")
        ));
    }
    if !files.iter().any(|file| file.name.starts_with("adapter_model.")) {
        return Err(Error::Config(format!(
            "{} has no weights: neither adapter_model.safetensors nor adapter_model.bin",
            directory.display()
        )));
    }
    let log = [&args.adapter, &directory.join("..")].map(|run| run.join("metrics.jsonl"));
    if let Some(log) = log.iter().find(|log| log.is_file()) {
        with_curves(&mut files, log)?;
    }
    if let Some(base) = local_base(&directory)? {
        say(&format!(
            "warning: {} names {base} as its base, which others do not have; train with model.base_name: OWNER/NAME, or change \
             base_model_name_or_path",
            directory.join(peft::CONFIG).display()
        ));
    }
    for lacking in TrainedWith::uploaded_alone(&directory)? {
        say(&format!("warning: {lacking}"));
    }
    if !files.iter().any(|file| file.name == CARD) {
        say("warning: there is no README.md, which is the model card");
    }
    if args.dry_run {
        for file in &files {
            print(format!("{}\n", file.name).as_bytes())?;
        }
        say(&format!("nothing was uploaded; {id} would have these files"));
        return Ok(());
    }
    let address = Hub::from_env()?.upload(&id, &files, &args.message, args.private)?;
    print(format!("{address}\n").as_bytes())
}

/// Adds the curves of the run to the card.
fn with_curves(files: &mut [Upload], log: &Path) -> Result<()> {
    let Some(card) = files.iter_mut().find(|file| file.name == CARD) else { return Ok(()) };
    let Content::File(path) = &card.content else { return Ok(()) };
    let mut text = std::fs::read_to_string(path).map_err(Error::read(path))?;
    let lines = log::read(log)?;
    let row = |(name, shown): &(&str, &str)| {
        let values: Vec<f64> = lines.iter().filter_map(|line| line.value(name)).collect();
        let (first, last) = (values.first()?, values.last()?);
        // Two values are no curve, but still a before and an after.
        let drawn = if values.len() > 2 { sparkline(&values, WIDTH) } else { String::new() };
        (values.len() > 1).then(|| format!("| {shown} | {drawn} | {first:.4} → {last:.4} |\n"))
    };
    let rows: String = CURVES.iter().filter_map(row).collect();
    if !rows.is_empty() {
        text.push_str(&format!("\n## Curves\n\n| | | first → last |\n|---|---|---|\n{rows}"));
    }
    card.content = Content::Bytes(text.into_bytes());
    Ok(())
}

/// The base that an adapter names, if it is a path.
fn local_base(directory: &Path) -> Result<Option<String>> {
    let path = directory.join(peft::CONFIG);
    let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
    let config: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::Adapter(format!("{}: {e}", path.display())))?;
    let base = config["base_model_name_or_path"].as_str().unwrap_or_default().to_string();
    let is_local = Path::new(&base).exists() || HubId::parse(&base).is_err();
    Ok(is_local.then_some(base))
}
