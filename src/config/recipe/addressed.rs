//! Settings of the command line: those for all stages, and those for one (`stages.NAME.section.key=value`).

use super::super::stage::{COMMON, SECTIONS, Written, not_of_lora, written_of_lora};
use crate::error::{Problems, Result};

/// Settings, divided.
pub(super) struct Addressed {
    /// For all stages.
    pub global: Vec<String>,
    /// For each stage, without its name.
    pub own: Vec<Vec<String>>,
}

impl Addressed {
    /// Divides settings.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if a setting names a stage that does not exist, or a key that this stage does not have.
    pub(super) fn divide(overrides: &[String], stages: &[Written]) -> Result<Self> {
        let mut divided = Self { global: Vec::new(), own: vec![Vec::new(); stages.len()] };
        let mut problems = Problems::default();
        for setting in overrides {
            let Some(rest) = setting.trim().strip_prefix("stages.") else {
                divided.global.push(setting.clone());
                continue;
            };
            let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
            match stages.iter().position(|stage| stage.name == name) {
                Some(index) => match refusal(rest, index, &stages[index]) {
                    Some(refusal) => problems.add(format!("--set {setting}: {refusal}")),
                    None => divided.own[index].push(rest.to_string()),
                },
                None => {
                    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
                    let names = names.join(", ");
                    problems.add(format!("--set {setting}: there is no stage {name}; there are {names}"));
                }
            }
        }
        problems.finish()?;
        Ok(divided)
    }
}

/// Why a stage does not take `section.key=value`, if it does not.
fn refusal(setting: &str, index: usize, stage: &Written) -> Option<String> {
    let path = path(setting);
    let (section, key) = path.split_once('.').unwrap_or((path, ""));
    if COMMON.contains(&section) {
        return Some(format!("{section} is the same for all stages; write --set {setting}"));
    }
    if !SECTIONS.contains(&section) {
        let sections = SECTIONS.join(", ");
        return Some(format!("{path} is not a key that is set for one stage; its sections are {sections}"));
    }
    let begins = stage.begins.unwrap_or_default();
    let key = key.split('.').next().unwrap_or(key);
    (index > 0 && section == "lora" && !written_of_lora(begins, key)).then(|| not_of_lora(begins, key))
}

/// The dotted path of a setting.
fn path(setting: &str) -> &str {
    setting.split('=').next().unwrap_or(setting).trim()
}

/// The key of a setting `objective.KEY=value`.
pub(super) fn parameter(setting: &str) -> Option<&str> {
    let rest = path(setting).strip_prefix("objective.")?;
    Some(rest.split('.').next().unwrap_or(rest))
}
