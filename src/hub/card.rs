//! The `configs` of a data set's card: the YAML at the top of its `README.md`, which assigns files to splits.
//!
//! Format: <https://huggingface.co/docs/hub/datasets-manual-configuration>.

use glob::{MatchOptions, Pattern};
use serde::Deserialize;

/// One configuration (subset) of a data set.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct CardConfig {
    #[serde(rename = "config_name", default = "default_name")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default)]
    pub(super) data_dir: Option<String>,
    #[serde(default)]
    data_files: Option<DataFiles>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum DataFiles {
    /// Patterns of a single split, `train`.
    Train(Patterns),
    Splits(Vec<Split>),
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Split {
    split: String,
    path: Patterns,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

impl Patterns {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(pattern) => std::slice::from_ref(pattern),
            Self::Many(patterns) => patterns,
        }
    }
}

fn default_name() -> String {
    "default".into()
}

/// The configurations that the card `readme` declares; empty if it declares none.
///
/// # Errors
/// A description of what is wrong with its YAML.
pub(super) fn configs(readme: &str) -> Result<Vec<CardConfig>, String> {
    #[derive(Deserialize)]
    struct Card {
        #[serde(default)]
        configs: Option<Vec<CardConfig>>,
    }
    let Some(yaml) = front_matter(readme) else { return Ok(Vec::new()) };
    let card: Option<Card> = serde_yaml::from_str(&yaml).map_err(|e| e.to_string())?;
    Ok(card.and_then(|card| card.configs).unwrap_or_default())
}

fn front_matter(readme: &str) -> Option<String> {
    let mut lines = readme.trim_start_matches('\u{feff}').lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut yaml = String::new();
    for line in lines {
        if line.trim_end() == "---" {
            return Some(yaml);
        }
        yaml.push_str(line);
        yaml.push('\n');
    }
    None
}

impl CardConfig {
    /// The splits and their patterns, relative to the repository; empty if the card only names a directory.
    pub(super) fn splits(&self) -> Vec<(&str, Vec<String>)> {
        let within = |patterns: &Patterns| patterns.as_slice().iter().map(|p| self.within(p)).collect();
        match &self.data_files {
            None => Vec::new(),
            Some(DataFiles::Train(patterns)) => vec![("train", within(patterns))],
            Some(DataFiles::Splits(splits)) => {
                splits.iter().map(|split| (split.split.as_str(), within(&split.path))).collect()
            }
        }
    }

    /// `data_dir` as a prefix of file names.
    pub(super) fn prefix(&self) -> String {
        let directory = self.data_dir.as_deref().unwrap_or_default();
        let directory = directory.trim_start_matches("./").trim_matches('/');
        if directory.is_empty() { String::new() } else { format!("{directory}/") }
    }

    fn within(&self, pattern: &str) -> String {
        format!("{}{}", self.prefix(), pattern.trim_start_matches("./"))
    }
}

/// Whether a pattern of a card matches `file`: `*` stays within a directory, `**` does not.
pub(super) fn matches(pattern: &str, file: &str) -> bool {
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    pattern == file || Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(file, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_which_file_is_of_which_split() {
        let card = "---\r\nlicense: mit\nconfigs:\n- config_name: a\n  default: true\n  data_files:\n  - split: train\n    path: [x.jsonl, \"y/*.jsonl\"]\n  - split: test\n    path: z.jsonl\n- config_name: b\n  data_dir: ./b\n- data_files: \"*.json\"\n  data_dir: c/\n---\n# Text\n";
        let configs = configs(card).unwrap();
        assert_eq!(configs.len(), 3);
        assert!(configs[0].default);
        let expected =
            vec![("train", vec!["x.jsonl".to_owned(), "y/*.jsonl".into()]), ("test", vec!["z.jsonl".into()])];
        assert_eq!(configs[0].splits(), expected);
        assert_eq!((configs[1].prefix(), configs[1].splits()), ("b/".to_owned(), vec![]));
        assert_eq!(
            (configs[2].name.as_str(), configs[2].splits()),
            ("default", vec![("train", vec!["c/*.json".to_owned()])])
        );
    }

    #[test]
    fn a_card_without_configs_declares_none() {
        for card in ["", "# Text", "---\nlicense: mit\n---\n", "---\n---\n", "---\nunfinished: true\n"] {
            assert_eq!(configs(card), Ok(vec![]), "{card:?}");
        }
        assert!(configs("---\nconfigs: 3\n---\n").is_err());
    }

    #[test]
    fn one_star_stays_within_a_directory() {
        assert!(matches("data/*.jsonl", "data/a.jsonl") && !matches("*.jsonl", "data/a.jsonl"));
        assert!(matches("**/*.jsonl", "a/b/c.jsonl") && matches("[odd.jsonl", "[odd.jsonl"));
        assert!(!matches("[odd*.jsonl", "[odd.jsonl"));
    }
}
