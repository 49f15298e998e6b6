//! `lora.init_lora_weights`: what A and B start with, under PEFT's names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Problems, Result};

/// What A and B start with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum InitLoraWeights {
    /// `true`: A Kaiming-uniform, B zero.
    #[default]
    Kaiming,
    /// `pissa`: the largest singular values of the weight. `pissa_niter_N`: found by N iterations.
    Pissa(Option<usize>),
    /// `eva`: A has the principal components of the module's inputs; see [`EvaConfig`].
    Eva,
}

impl InitLoraWeights {
    /// Checks an initialisation against the settings beside it.
    ///
    /// # Errors
    /// [`Error::Config`] naming every invalid value and its remedy.
    pub fn check(self, eva: Option<EvaConfig>, has_init_from: bool, use_dora: bool) -> Result<()> {
        let mut problems = Problems::default();
        if let Some(EvaConfig { rho, tau, .. }) = eva {
            problems.require(self == Self::Eva, || {
                format!("lora.eva_config is set, but lora.init_lora_weights is {self}; write eva, or eva_config: null")
            });
            problems.require((1.0..=1000.0).contains(&rho), || {
                format!(
                    "lora.eva_config.rho is {rho}; it must be from 1 (no redistribution) to 1000, such as 2"
                )
            });
            problems.require((0.0..=1.0).contains(&tau), || {
                format!("lora.eva_config.tau is {tau}; it is a cosine from 0 to 1, such as 0.99")
            });
        }
        let plain = self == Self::Kaiming;
        problems.require(plain || !has_init_from, || {
            format!("lora.init_lora_weights is {self}, but lora.init_from names an adapter to start from; keep one of them")
        });
        problems.require(plain || !use_dora, || {
            format!("lora.init_lora_weights is {self}, which is not supported with lora.use_dora; keep one of them")
        });
        problems.finish()
    }
}

/// Most iterations of `pissa_niter_N`; torch's own default is 2.
const MOST_ITERATIONS: usize = 1000;

impl fmt::Display for InitLoraWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kaiming => f.write_str("true"),
            Self::Pissa(None) => f.write_str("pissa"),
            Self::Eva => f.write_str("eva"),
            Self::Pissa(Some(iterations)) => write!(f, "pissa_niter_{iterations}"),
        }
    }
}

impl FromStr for InitLoraWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            Error::Config(format!(
                "{text:?} is not an initialisation; write true, eva, pissa, or pissa_niter_N with N from 1 to {MOST_ITERATIONS}"
            ))
        };
        match text {
            "true" => Ok(Self::Kaiming),
            "pissa" => Ok(Self::Pissa(None)),
            "eva" => Ok(Self::Eva),
            _ => match text.strip_prefix("pissa_niter_").map(str::parse) {
                Some(Ok(count)) if (1..=MOST_ITERATIONS).contains(&count) => Ok(Self::Pissa(Some(count))),
                _ => Err(unknown()),
            },
        }
    }
}

/// The settings of `init_lora_weights: eva` (Paischer et al. 2024, arXiv 2410.07170), with PEFT's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaConfig {
    /// The rank of a module may grow to this multiple of `r`. Ranks move to the modules where the components explain more;
    /// their sum stays. 1: all keep theirs.
    pub rho: f64,
    /// Components have converged when their cosine with those of the batch before is this or more.
    pub tau: f64,
    /// Whether only the tokens of completions count.
    pub use_label_mask: bool,
    /// Whether components are divided by the square root of their singular value.
    pub whiten: bool,
    /// Whether a module's `lora_alpha` grows with its rank, so that its scale stays.
    pub adjust_scaling_factors: bool,
}

impl Default for EvaConfig {
    fn default() -> Self {
        Self { rho: 2.0, tau: 0.99, use_label_mask: true, whiten: false, adjust_scaling_factors: true }
    }
}

/// An initialisation as it is written: `true`, or a name.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Decided(bool),
    Name(String),
}

impl TryFrom<Written> for InitLoraWeights {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Decided(true) => Ok(Self::Kaiming),
            Written::Decided(false) => Err(Error::Config(
                "false would start B at random, so that the policy is not the reference at first; write true"
                    .into(),
            )),
            Written::Name(name) => name.parse(),
        }
    }
}

impl From<InitLoraWeights> for Written {
    fn from(init: InitLoraWeights) -> Self {
        match init {
            InitLoraWeights::Kaiming => Self::Decided(true),
            other => Self::Name(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_named_together() {
        let eva = EvaConfig { rho: 0.5, tau: 2.0, ..EvaConfig::default() };
        let error = InitLoraWeights::Pissa(None).check(Some(eva), true, true).unwrap_err().to_string();
        for part in ["eva_config is set", "rho is 0.5", "tau is 2", "init_from", "use_dora"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        InitLoraWeights::Kaiming.check(None, true, true).unwrap();
        InitLoraWeights::Eva.check(Some(EvaConfig::default()), false, false).unwrap();
    }

    #[test]
    fn names_are_pefts() {
        for (yaml, init) in [
            ("true", InitLoraWeights::Kaiming),
            ("pissa", InitLoraWeights::Pissa(None)),
            ("eva", InitLoraWeights::Eva),
            ("pissa_niter_16", InitLoraWeights::Pissa(Some(16))),
        ] {
            assert_eq!(serde_yaml::from_str::<InitLoraWeights>(yaml).unwrap(), init);
            assert_eq!(serde_yaml::to_string(&init).unwrap().trim(), yaml);
        }
        for wrong in ["false", "olora", "pissa_niter_0", "pissa_niter_x", "3"] {
            assert!(serde_yaml::from_str::<InitLoraWeights>(wrong).is_err(), "{wrong}");
        }
    }
}
