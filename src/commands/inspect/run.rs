//! Describes a run directory, one of its checkpoints, or a folder of runs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_yaml::Value as Yaml;

use super::super::compared::compared;
use crate::adapter::peft;
use crate::error::{Error, Result};
use crate::files;
use crate::report::{Progressed, log, samples, screen, sparkline};
use crate::train::{checkpoint, run_dir};

/// Settings that are shown of a run; `--json` has them under these names.
const SETTINGS: [&str; 10] = [
    "model.base",
    "data.train",
    "objective.loss_type",
    "objective.beta",
    "lora.r",
    "lora.lora_alpha",
    "train.learning_rate",
    "train.per_device_train_batch_size",
    "train.gradient_accumulation_steps",
    "seed",
];

/// Prompts whose completions are shown; `--json` has all of them.
const SHOWN: usize = 3;

/// The reported facts of a run.
#[derive(Serialize)]
pub(super) struct Run {
    path: String,
    /// Of the newest valid checkpoint.
    step: Option<u64>,
    checkpoint: Option<String>,
    adapter: bool,
    /// The last line of the log.
    logged_step: Option<u64>,
    loss: Curve,
    margin: Curve,
    /// Share of held-out pairs whose chosen completion is the likelier one.
    held_out_accuracy: Curve,
    settings: serde_json::Map<String, serde_json::Value>,
    /// Completions before, during and after the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<Progressed>,
    /// The directories of its stages, if it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<String>,
    bytes: u64,
    damage: Vec<String>,
}

/// A figure of the log.
#[derive(Serialize, Default)]
struct Curve {
    first: Option<f64>,
    last: Option<f64>,
    #[serde(skip)]
    drawn: String,
}

impl Curve {
    fn of(lines: &[log::Line], name: &str) -> Self {
        let values: Vec<f64> = lines.iter().filter_map(|line| line.value(name)).collect();
        let drawn = sparkline(&values, 40.min(screen::columns().saturating_sub(40)));
        Self { first: values.first().copied(), last: values.last().copied(), drawn }
    }

    fn described(&self, unit: impl Fn(f64) -> String) -> Option<String> {
        Some(format!("{}  {} → {}", self.drawn, unit(self.first?), unit(self.last?)))
    }
}

impl Run {
    /// Reads what a run directory holds. What is missing or damaged is left out and reported.
    pub(super) fn read(path: &Path) -> Self {
        let (newest, mut damage) = checkpoint::newest(path);
        let lines = match log::read(&path.join("metrics.jsonl")) {
            Ok(lines) => lines,
            Err(error) => {
                damage.push(error.to_string());
                Vec::new()
            }
        };
        let config = std::fs::read_to_string(path.join("config.yaml")).unwrap_or_default();
        let config: Yaml = serde_yaml::from_str(&config).unwrap_or_default();
        let setting = |name: &&str| {
            let value = name.split('.').try_fold(&config, |section, key| section.get(key))?;
            Some((name.to_string(), serde_json::to_value(value).ok()?))
        };
        Self {
            path: path.display().to_string(),
            step: newest.as_ref().map(|(_, state)| state.step),
            checkpoint: newest.map(|(path, _)| path.display().to_string()),
            adapter: path.join("adapter").join(peft::CONFIG).exists(),
            logged_step: lines.last().map(|line| line.step),
            loss: Curve::of(&lines, "loss"),
            margin: Curve::of(&lines, "rewards/margins"),
            held_out_accuracy: Curve::of(&lines, "eval_logps/accuracies"),
            settings: SETTINGS.iter().filter_map(setting).collect(),
            samples: samples(&path.join("samples.jsonl")),
            stages: run_dir::stages(path).iter().map(|stage| stage.display().to_string()).collect(),
            bytes: files::size(path),
            damage,
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: String| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{key:34} {value}");
        };
        line("run", format!("{} ({:.1} MB)", self.path, self.bytes as f64 / 1e6));
        line("adapter", if self.adapter { format!("{}/adapter", self.path) } else { "none yet".into() });
        line("checkpoint", self.checkpoint.clone().unwrap_or_else(|| "none".into()));
        self.stages.iter().for_each(|stage| line("stage", stage.clone()));
        line("last logged step", self.logged_step.map_or("-".into(), |step| step.to_string()));
        let figure = |value: f64| format!("{value:.4}");
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let curves = [
            ("loss", self.loss.described(figure)),
            ("margin", self.margin.described(figure)),
            ("held-out accuracy by log-prob", self.held_out_accuracy.described(percent)),
        ];
        curves.into_iter().filter_map(|(key, value)| Some((key, value?))).for_each(|(k, v)| line(k, v));
        for (key, value) in &self.settings {
            line(key, value.as_str().map_or_else(|| value.to_string(), String::from));
        }
        self.damage.iter().for_each(|damage| line("damage", damage.clone()));
        for sample in self.samples.iter().take(SHOWN).filter_map(compared) {
            text.push_str(&sample);
            text.push('\n');
        }
        text
    }
}

/// The runs in a folder, sorted by name.
pub(super) fn runs_in(folder: &Path) -> Vec<Run> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| run_dir::is_run(path)).collect();
    paths.sort();
    paths.iter().map(|path| Run::read(path)).collect()
}

/// One line per run.
pub(super) fn comparison(runs: &[Run]) -> String {
    let name =
        |run: &Run| Path::new(&run.path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let width = runs.iter().map(|run| name(run).chars().count()).max().unwrap_or(0).max(3);
    let mut text = format!(
        "{:width$} {:>7} {:>8} {:>8} {:>9} {:>10} {:>5} {:>4}\n",
        "run", "step", "loss", "margin", "held out", "lr", "beta", "r"
    );
    for run in runs {
        let cell = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
        let setting = |key: &str| run.settings.get(key).map_or("-".into(), ToString::to_string);
        let held_out = run.held_out_accuracy.last.map_or("-".into(), |v| format!("{:.1} %", 100.0 * v));
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:width$} {:>7} {:>8} {:>8} {held_out:>9} {:>10} {:>5} {:>4}",
            name(run),
            run.logged_step.map_or("-".into(), |step| step.to_string()),
            cell(run.loss.last, 4),
            cell(run.margin.last, 3),
            setting("train.learning_rate"),
            setting("objective.beta"),
            setting("lora.r"),
        );
    }
    text
}

/// The reported facts of a checkpoint.
#[derive(Serialize)]
pub(super) struct Checkpoint {
    path: String,
    step: u64,
    optimizer_steps: u64,
    epoch: u64,
    adapter: String,
    bytes: u64,
}

/// Whether a directory is a checkpoint.
pub(super) fn is_checkpoint(path: &Path) -> bool {
    path.join("state.json").is_file() && path.join("manifest.json").is_file()
}

/// Verifies a checkpoint and reads what it says.
///
/// # Errors
/// If it is damaged.
pub(super) fn read_checkpoint(path: &Path) -> Result<Checkpoint> {
    let state = checkpoint::open(path)
        .map_err(|error| Error::Train(format!("{} is damaged: {error}", path.display())))?;
    Ok(Checkpoint {
        path: path.display().to_string(),
        step: state.step,
        optimizer_steps: state.optimizer_steps,
        epoch: state.sampler.epoch,
        adapter: path.join("adapter").display().to_string(),
        bytes: files::size(path),
    })
}
