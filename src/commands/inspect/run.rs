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
    #[serde(flatten)]
    progress: Progress,
    /// The directories of its stages, if it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<String>,
    bytes: u64,
    damage: Vec<String>,
}

/// What a run did, as far as its directory tells.
#[derive(Serialize)]
struct Progress {
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
}

impl Progress {
    /// Reads what a run directory holds of the steps up to `last`. What is missing is left out; damage is added.
    fn read(path: &Path, last: u64, damage: &mut Vec<String>) -> Self {
        let mut lines = log::read(&path.join("metrics.jsonl")).unwrap_or_else(|error| {
            damage.push(error.to_string());
            Vec::new()
        });
        lines.retain(|line| line.step <= last);
        let mut samples = samples(&path.join("samples.jsonl"));
        samples.iter_mut().for_each(|sample| sample.completions.retain(|(step, _)| *step <= last));
        let config = std::fs::read_to_string(path.join("config.yaml")).unwrap_or_default();
        let config: Yaml = serde_yaml::from_str(&config).unwrap_or_default();
        let setting = |name: &&str| {
            let value = name.split('.').try_fold(&config, |section, key| section.get(key))?;
            Some((name.to_string(), serde_json::to_value(value).ok()?))
        };
        Self {
            logged_step: lines.last().map(|line| line.step),
            loss: Curve::of(&lines, "loss"),
            margin: Curve::of(&lines, "rewards/margins"),
            held_out_accuracy: Curve::of(&lines, "eval_logps/accuracies"),
            settings: SETTINGS.iter().filter_map(setting).collect(),
            samples,
        }
    }

    /// Curves and settings, line by line.
    fn figures(&self) -> Vec<(&str, String)> {
        let figure = |value: f64| format!("{value:.4}");
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let curves = [
            ("loss", self.loss.described(figure)),
            ("margin", self.margin.described(figure)),
            ("held-out accuracy by log-prob", self.held_out_accuracy.described(percent)),
        ];
        let mut lines =
            vec![("last logged step", self.logged_step.map_or("-".into(), |step| step.to_string()))];
        lines.extend(curves.into_iter().filter_map(|(key, value)| Some((key, value?))));
        lines.extend(self.settings.iter().map(|(key, value)| {
            (key.as_str(), value.as_str().map_or_else(|| value.to_string(), String::from))
        }));
        lines
    }

    /// Some prompts with their completions.
    fn compared(&self) -> String {
        self.samples.iter().take(SHOWN).filter_map(compared).map(|sample| sample + "\n").collect()
    }
}

/// A line of a table.
fn row(key: &str, value: &str) -> String {
    format!("{key:34} {value}\n")
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
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
        let progress = Progress::read(path, u64::MAX, &mut damage);
        Self {
            path: path.display().to_string(),
            step: newest.as_ref().map(|(_, state)| state.step),
            checkpoint: newest.map(|(path, _)| path.display().to_string()),
            adapter: path.join("adapter").join(peft::CONFIG).exists(),
            progress,
            stages: run_dir::stages(path).iter().map(|stage| stage.display().to_string()).collect(),
            bytes: files::size(path),
            damage,
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = row("run", &format!("{} ({})", self.path, megabytes(self.bytes)));
        let adapter = if self.adapter { format!("{}/adapter", self.path) } else { "none yet".into() };
        text.push_str(&row("adapter", &adapter));
        text.push_str(&row("checkpoint", self.checkpoint.as_deref().unwrap_or("none")));
        text.extend(self.stages.iter().map(|stage| row("stage", stage)));
        text.extend(self.progress.figures().iter().map(|(key, value)| row(key, value)));
        text.extend(self.damage.iter().map(|damage| row("damage", damage)));
        text + &self.progress.compared()
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
        let setting = |key: &str| run.progress.settings.get(key).map_or("-".into(), ToString::to_string);
        let held_out =
            run.progress.held_out_accuracy.last.map_or("-".into(), |v| format!("{:.1} %", 100.0 * v));
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:width$} {:>7} {:>8} {:>8} {held_out:>9} {:>10} {:>5} {:>4}",
            name(run),
            run.progress.logged_step.map_or("-".into(), |step| step.to_string()),
            cell(run.progress.loss.last, 4),
            cell(run.progress.margin.last, 3),
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
    /// What the run had done by then; nothing if the checkpoint is not in the directory of a run.
    #[serde(flatten)]
    progress: Option<Progress>,
}

impl Checkpoint {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = row("checkpoint", &format!("{} ({})", self.path, megabytes(self.bytes)));
        text.push_str(&row("adapter", &self.adapter));
        text.push_str(&row("step", &self.step.to_string()));
        text.push_str(&row("finished epochs", &self.epoch.to_string()));
        if let Some(progress) = &self.progress {
            text.extend(progress.figures().iter().map(|(key, value)| row(key, value)));
            text.push_str(&progress.compared());
        }
        text
    }
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
    // `RUN/checkpoints/step-N`; `.` and links lead there too.
    let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let run = whole.parent().and_then(Path::parent).filter(|run| run_dir::is_run(run));
    // Damage of the log is told where the run is described.
    let progress = run.map(|run| Progress::read(run, state.step, &mut Vec::new()));
    Ok(Checkpoint {
        progress,
        path: path.display().to_string(),
        step: state.step,
        optimizer_steps: state.optimizer_steps,
        epoch: state.sampler.epoch,
        adapter: path.join("adapter").display().to_string(),
        bytes: files::size(path),
    })
}
