//! How a configuration names modules and layers, as in PEFT.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `all-linear`, or [`ModuleNames`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ModuleNames", into = "ModuleNames")]
pub enum TargetModules {
    /// Every linear module except the output head.
    AllLinear,
    /// The named modules.
    Names(ModuleNames),
}

impl From<ModuleNames> for TargetModules {
    fn from(names: ModuleNames) -> Self {
        match &names {
            // PEFT accepts the word in any case.
            ModuleNames::Regex(word) if word.eq_ignore_ascii_case("all-linear") => Self::AllLinear,
            _ => Self::Names(names),
        }
    }
}

impl From<TargetModules> for ModuleNames {
    fn from(targets: TargetModules) -> Self {
        match targets {
            TargetModules::AllLinear => Self::Regex("all-linear".into()),
            TargetModules::Names(names) => names,
        }
    }
}

impl fmt::Display for TargetModules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllLinear => f.write_str("all-linear"),
            Self::Names(ModuleNames::Regex(regex)) => write!(f, "{regex:?}"),
            Self::Names(ModuleNames::List(names)) => write!(f, "[{}]", names.join(", ")),
        }
    }
}

/// Modules by name or by pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of module names, or one regular expression as a string")]
pub enum ModuleNames {
    /// One regular expression that matches the whole path.
    Regex(String),
    /// Whole paths, or their last parts after a dot.
    List(Vec<String>),
}

/// One layer or several, 0-based.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a layer's number or a list of them, counted from 0")]
pub enum Layers {
    /// One layer.
    One(usize),
    /// Several layers.
    Many(Vec<usize>),
}

impl Layers {
    /// The layer indices.
    pub fn indices(&self) -> &[usize] {
        match self {
            Self::One(index) => std::slice::from_ref(index),
            Self::Many(indices) => indices,
        }
    }
}
