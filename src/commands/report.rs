//! `dpo-lora report`: runs as a page.

use std::path::{Path, PathBuf};

use serde_yaml::Value as Yaml;

use super::output::say;
use crate::cli::ReportArgs;
use crate::error::{Error, Result};
use crate::files::{self, Guard};
use crate::report::html::{Shown, page};
use crate::report::{held_out, log, samples, warnings};
use crate::train::run_dir;

pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let mut runs = Vec::new();
    for path in &args.runs {
        runs.extend(found(path)?);
    }
    let output = match (&args.output, &runs[..]) {
        (Some(output), _) => output.clone(),
        (None, [run]) => run.join("report.html"),
        (None, _) => "report.html".into(),
    };
    check_output(&runs, &output)?;
    write(&runs, &output)?;
    say(&format!("{} ({} {})", output.display(), runs.len(), if runs.len() == 1 { "run" } else { "runs" }));
    Ok(())
}

/// Refuses a file of a run other than its report, and any other file that is no report.
fn check_output(runs: &[PathBuf], output: &Path) -> Result<()> {
    let mut inputs = Guard::default();
    for run in runs {
        inputs.add("the run", run);
    }
    // A run's own report may be a link, whose target is no input.
    if !runs.iter().any(|run| run.join("report.html") == *output) {
        inputs.check_file(output)?;
    }
    files::check_earlier(output, "a report", |head| {
        String::from_utf8_lossy(head).contains("<title>dpo-lora report</title>")
    })
}

/// The run of a path, or the runs in it.
fn found(path: &Path) -> Result<Vec<PathBuf>> {
    if path.join("metrics.jsonl").is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut runs: Vec<PathBuf> = entries.filter(|path| path.join("metrics.jsonl").is_file()).collect();
    runs.sort();
    if runs.is_empty() {
        let near = run_dir::nearby(path).into_iter().find(|near| near.join("metrics.jsonl").is_file());
        let near = near.map_or(String::new(), |near| format!("; did you mean {}?", near.display()));
        let found = match (path.exists(), run_dir::is_run(path)) {
            (false, _) => "does not exist",
            (true, false) => "holds no metrics.jsonl of a run",
            (true, true) => {
                "is a run without a metrics.jsonl: it has logged nothing, or the file was removed"
            }
        };
        return Err(Error::Config(format!("{} {found}{near}", path.display())));
    }
    Ok(runs)
}

/// Writes the page of these run directories.
///
/// # Errors
/// If a log cannot be read, or the page cannot be written.
pub(super) fn write(runs: &[PathBuf], output: &Path) -> Result<()> {
    let shown = runs.iter().map(|run| shown(run)).collect::<Result<Vec<_>>>()?;
    files::write_bytes(output, page(&shown).as_bytes())
}

/// What the page of a run shows.
///
/// # Errors
/// If its log cannot be read.
pub(super) fn shown(run: &Path) -> Result<Shown> {
    let text = std::fs::read_to_string(run.join("config.yaml")).unwrap_or_default();
    Ok(Shown {
        name: run.display().to_string(),
        lines: log::read(&run.join("metrics.jsonl"))?,
        settings: settings(&text),
        warnings: warnings(&run.join("warnings.jsonl")),
        samples: samples(&run.join("samples.jsonl")),
        held_out: held_out(&run.join("held_out.json")),
    })
}

/// Every key of a configuration with its value, as text.
pub(super) fn settings(yaml: &str) -> Vec<(String, String)> {
    let config: Yaml = serde_yaml::from_str(yaml).unwrap_or_default();
    let mut settings = Vec::new();
    flatten("", &config, &mut settings);
    settings
}

/// Adds every key of a mapping with its value; sections become prefixes.
fn flatten(prefix: &str, value: &Yaml, found: &mut Vec<(String, String)>) {
    let Some(mapping) = value.as_mapping() else { return };
    for (key, value) in mapping {
        let key = key.as_str().unwrap_or("?");
        let path = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
        match value {
            Yaml::Mapping(inner) if !inner.is_empty() => flatten(&path, value, found),
            Yaml::String(text) => found.push((path, text.clone())),
            value => {
                let text = serde_yaml::to_string(value).unwrap_or_default();
                found.push((path, text.trim().replace('\n', " ")));
            }
        }
    }
}
