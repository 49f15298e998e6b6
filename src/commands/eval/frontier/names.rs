//! The names of runs in a figure.

use std::path::{Path, PathBuf};

/// Returns the series and the name of each run. Runs in directories of their own, such as `runs/dpo/a` and `runs/ppo/b`, are
/// series by these directories, and their names are what follows; runs of one directory are no series, and are named as given.
pub(super) fn of(runs: &[PathBuf]) -> Vec<(String, String)> {
    let split: Vec<(Option<&Path>, String)> = runs.iter().map(|run| split(run)).collect();
    let first = split.first().map(|(parent, _)| *parent);
    let is_one = split.iter().all(|(parent, _)| Some(*parent) == first);
    let named = |(run, (parent, name)): (&PathBuf, &(Option<&Path>, String))| {
        let series = parent.and_then(Path::file_name).map(|it| it.to_string_lossy().into_owned());
        match series.filter(|_| !is_one) {
            Some(series) => (series, name.clone()),
            None => (String::new(), bare(run).display().to_string()),
        }
    };
    runs.iter().zip(&split).map(named).collect()
}

/// `runs/a/adapter` is `runs/a`.
fn bare(run: &Path) -> &Path {
    if run.ends_with("adapter") { run.parent().unwrap_or(run) } else { run }
}

/// The directory of a run, and its name there: `beta-0.1`, of a checkpoint `beta-0.1 step-20`.
fn split(run: &Path) -> (Option<&Path>, String) {
    let run = bare(run);
    let name = |path: &Path| path.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
    match run.parent().filter(|parent| parent.ends_with("checkpoints")).and_then(Path::parent) {
        Some(whole) => (whole.parent(), format!("{} {}", name(whole), name(run))),
        None => (run.parent(), name(run)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(runs: &[&str]) -> Vec<(String, String)> {
        of(&runs.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn runs_of_several_directories_are_series() {
        let found = names(&["runs/dpo/a/adapter", "runs/dpo/a/checkpoints/step-20", "runs/ppo/b"]);
        let expected = [("dpo", "a"), ("dpo", "a step-20"), ("ppo", "b")];
        assert_eq!(found, expected.map(|(series, name)| (series.to_string(), name.to_string())));
    }

    #[test]
    fn runs_of_one_directory_are_not() {
        let found = names(&["runs/a", "runs/b/adapter"]);
        assert_eq!(found, ["runs/a", "runs/b"].map(|name| (String::new(), name.to_string())));
        assert_eq!(names(&["a"]), [(String::new(), "a".to_string())]);
        assert!(names(&[]).is_empty());
    }
}
