//! Which modules get an adapter, and its rank. The rules for module paths such as `model.layers.3.self_attn.q_proj` are
//! PEFT's (`peft.tuners.tuners_utils.check_target_module_exists`, `_maybe_include_all_linear_layers` and
//! `peft.utils.other.get_pattern_key`, PEFT 0.21).

use std::collections::BTreeSet;

use fancy_regex::Regex;

use super::config::{LoraConfig, ModuleNames, TargetModules};
use super::expressions::{self, is_match};
use crate::error::{Problems, Result, nearest};

/// The compiled matching rules of a [`LoraConfig`].
#[derive(Debug)]
pub struct Patterns<'a> {
    config: &'a LoraConfig,
    targets: Names<'a>,
    exclude: Option<Names<'a>>,
    ranks: Vec<(&'a str, Regex, usize)>,
    alphas: Vec<(&'a str, Regex, f64)>,
}

#[derive(Debug)]
enum Names<'a> {
    All,
    List(&'a [String]),
    Regex(Box<Regex>),
}

impl<'a> Names<'a> {
    fn new(key: &str, names: &'a ModuleNames) -> Result<Self> {
        match names {
            ModuleNames::List(names) => Ok(Self::List(names)),
            ModuleNames::Regex(regex) => Ok(Self::Regex(Box::new(expressions::whole(key, regex)?))),
        }
    }

    fn matches(&self, module: &str) -> Result<bool> {
        match self {
            Self::All => Ok(true),
            Self::List(names) => Ok(names.iter().any(|name| names_module(name, module))),
            Self::Regex(regex) => is_match(regex, module),
        }
    }
}

impl<'a> Patterns<'a> {
    /// # Errors
    /// [`Error::Config`](crate::error::Error::Config) naming every regular expression that does not compile.
    pub fn new(config: &'a LoraConfig) -> Result<Self> {
        let mut problems = Problems::default();
        let mut names = |key: &str, names: &'a ModuleNames| match Names::new(key, names) {
            Ok(names) => names,
            Err(error) => {
                problems.add(error.to_string());
                Names::All
            }
        };
        let targets = match &config.target_modules {
            TargetModules::AllLinear => Names::All,
            TargetModules::Names(target_modules) => names("target_modules", target_modules),
        };
        let exclude = match &config.exclude_modules {
            // An empty list or string excludes nothing.
            Some(ModuleNames::List(names)) if names.is_empty() => None,
            Some(ModuleNames::Regex(regex)) if regex.is_empty() => None,
            Some(exclude_modules) => Some(names("exclude_modules", exclude_modules)),
            None => None,
        };
        let ranks = suffixes("rank_pattern", config.rank_pattern.iter(), &mut problems);
        let alphas = suffixes("alpha_pattern", config.alpha_pattern.iter(), &mut problems);
        problems.finish()?;
        Ok(Self { config, targets, exclude, ranks, alphas })
    }

    /// Whether the linear module at this path gets an adapter. With `all-linear` every module does:
    /// [`LoraTargets::resolve`] leaves out the output head, because it knows the head's name.
    ///
    /// # Errors
    /// [`Error::Config`](crate::error::Error::Config) if a regular expression gives up (catastrophic backtracking).
    pub fn targets(&self, module: &str) -> Result<bool> {
        if self.excludes(module)? || !self.targets.matches(module)? {
            return Ok(false);
        }
        let (Some(layers), Names::List(names)) = (&self.config.layers_to_transform, &self.targets) else {
            return Ok(true);
        };
        // A whole path already names its layer, so PEFT does not check the index.
        let whole = names.iter().any(|name| name == module);
        Ok(whole || layer_index(module).is_some_and(|index| layers.indices().contains(&index)))
    }

    /// The rank of the module at this path.
    ///
    /// # Errors
    /// As [`Patterns::targets`].
    pub fn rank_for(&self, module: &str) -> Result<usize> {
        Ok(first(&self.ranks, module)?.map_or(self.config.r, |(_, rank)| rank))
    }

    /// The key of `rank_pattern` that matches the module at this path, and its rank.
    ///
    /// # Errors
    /// As [`Patterns::targets`].
    pub fn rank_key(&self, module: &str) -> Result<Option<(&'a str, usize)>> {
        first(&self.ranks, module)
    }

    /// `lora_alpha` of the module at this path.
    ///
    /// # Errors
    /// As [`Patterns::targets`].
    pub fn alpha_for(&self, module: &str) -> Result<f64> {
        Ok(first(&self.alphas, module)?.map_or(self.config.lora_alpha, |(_, alpha)| alpha))
    }

    /// The key of `alpha_pattern` that matches the module at this path, and its `lora_alpha`.
    ///
    /// # Errors
    /// As [`Patterns::targets`].
    pub fn alpha_key(&self, module: &str) -> Result<Option<(&'a str, f64)>> {
        first(&self.alphas, module)
    }

    /// The factor of B·A at this path: alpha / r, or alpha / √r with `use_rslora`.
    ///
    /// # Errors
    /// As [`Patterns::targets`].
    pub fn scaling_for(&self, module: &str) -> Result<f64> {
        let rank = self.rank_for(module)? as f64;
        Ok(self.alpha_for(module)? / if self.config.use_rslora { rank.sqrt() } else { rank })
    }

    fn excludes(&self, module: &str) -> Result<bool> {
        self.exclude.as_ref().map_or(Ok(false), |exclude| exclude.matches(module))
    }
}

/// One adapted module.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraTarget {
    /// The module's path, such as `model.layers.3.self_attn.q_proj`.
    pub module: String,
    /// Rank of the module's A `[rank, in]` and B `[out, rank]`.
    pub rank: usize,
    /// The module's `lora_alpha`.
    pub alpha: f64,
    /// The factor of B·A.
    pub scaling: f64,
}

/// The adapted modules of one model, in the model's order.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraTargets(pub Vec<LoraTarget>);

impl LoraTargets {
    /// Applies `config` to the paths of all linear modules of a model, which may include `head` (the path of the output
    /// head); `all-linear` leaves `head` out.
    ///
    /// # Errors
    /// [`Error::Config`](crate::error::Error::Config) if a name or pattern matches no module (with the nearest known
    /// name and all known names), if a layer does not exist, or if no module is left to adapt. PEFT only warns about
    /// most of these or ignores them.
    pub fn resolve(config: &LoraConfig, linear: &[String], head: Option<&str>) -> Result<Self> {
        config.validate()?;
        let patterns = Patterns::new(config)?;
        let mut targets = Vec::new();
        for module in linear {
            let head_of_all = config.target_modules == TargetModules::AllLinear && head == Some(module);
            if !head_of_all && patterns.targets(module)? {
                targets.push(LoraTarget {
                    module: module.clone(),
                    rank: patterns.rank_for(module)?,
                    alpha: patterns.alpha_for(module)?,
                    scaling: patterns.scaling_for(module)?,
                });
            }
        }
        let mut problems = Problems::default();
        check_names(config, &patterns, linear, &mut problems)?;
        check_layers(config, linear, &mut problems);
        check_patterns(&patterns, &targets, &mut problems)?;
        problems.require(!targets.is_empty() || !problems.is_empty(), || {
            format!("lora selects no module of this model, whose linear modules are {}", leaf_list(linear))
        });
        problems.finish()?;
        Ok(Self(targets))
    }
}

/// PEFT's rule for a list: a name matches the whole path, or its end after a dot.
fn names_module(name: &str, module: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The first numbered part of a path that follows at least two parts and precedes at least one, as PEFT's
/// `.*?\.[^.]*\.(?P<idx>\d+)\.` finds it.
fn layer_index(module: &str) -> Option<usize> {
    let parts: Vec<&str> = module.split('.').collect();
    let inner = parts.get(2..parts.len().checked_sub(1)?)?;
    let is_index = |part: &&&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    inner.iter().find(is_index)?.parse().ok()
}

fn suffixes<'a, T: Copy + 'a>(
    section: &str,
    patterns: impl Iterator<Item = (&'a String, &'a T)>,
    problems: &mut Problems,
) -> Vec<(&'a str, Regex, T)> {
    let mut compiled = Vec::new();
    for (key, value) in patterns {
        match expressions::end(section, key) {
            Ok(regex) => compiled.push((key.as_str(), regex, *value)),
            Err(error) => problems.add(error.to_string()),
        }
    }
    compiled
}

fn first<'a, T: Copy>(patterns: &[(&'a str, Regex, T)], module: &str) -> Result<Option<(&'a str, T)>> {
    for (key, regex, value) in patterns {
        if is_match(regex, module)? {
            return Ok(Some((key, *value)));
        }
    }
    Ok(None)
}

fn check_names(
    config: &LoraConfig,
    patterns: &Patterns,
    linear: &[String],
    problems: &mut Problems,
) -> Result<()> {
    let sections =
        [("target_modules", Some(&patterns.targets)), ("exclude_modules", patterns.exclude.as_ref())];
    for (key, names) in sections {
        match names {
            Some(Names::List(names)) => {
                for name in
                    names.iter().filter(|name| !linear.iter().any(|module| names_module(name, module)))
                {
                    problems.add(format!("lora.{key} names {name}, {}", unknown(name, linear)));
                }
            }
            Some(regex @ Names::Regex(_)) => {
                let mut found = false;
                for module in linear {
                    found |= regex.matches(module)?;
                }
                problems.require(found, || {
                    let written = if key == "target_modules" {
                        config.target_modules.to_string()
                    } else {
                        "the regular expression".into()
                    };
                    let example = linear.first().map_or("", String::as_str);
                    format!(
                        "lora.{key}: {written} matches no module; it must match a whole path such as {example}; the \
                         linear modules are {}",
                        leaf_list(linear)
                    )
                });
            }
            Some(Names::All) | None => {}
        }
    }
    Ok(())
}

fn check_layers(config: &LoraConfig, linear: &[String], problems: &mut Problems) {
    let known: BTreeSet<usize> = linear.iter().filter_map(|module| layer_index(module)).collect();
    let asked = config.layers_to_transform.iter().flat_map(|layers| layers.indices());
    for index in asked.filter(|index| !known.contains(index)) {
        let last = known.last().map_or("none".into(), |last| format!("0 to {last}"));
        problems
            .add(format!("lora.layers_to_transform names layer {index}, but this model's layers are {last}"));
    }
}

fn check_patterns(patterns: &Patterns, targets: &[LoraTarget], problems: &mut Problems) -> Result<()> {
    let ranks = patterns.ranks.iter().map(|(key, regex, _)| ("rank_pattern", *key, regex));
    let alphas = patterns.alphas.iter().map(|(key, regex, _)| ("alpha_pattern", *key, regex));
    for (section, key, regex) in ranks.chain(alphas) {
        let mut found = false;
        for target in targets {
            found |= is_match(regex, &target.module)?;
        }
        let modules: Vec<String> = targets.iter().map(|target| target.module.clone()).collect();
        problems.require(found || targets.is_empty(), || {
            format!(
                "lora.{section} names {key}, {}",
                unknown(key, &modules).replace("this model", "the adapter")
            )
        });
    }
    Ok(())
}

fn unknown(name: &str, modules: &[String]) -> String {
    let leaves = leaves(modules);
    let hint = nearest(name, leaves.iter().copied())
        .map_or(String::new(), |near| format!(" (did you mean {near}?)"));
    format!("which matches no module of this model{hint}; its linear modules are {}", leaf_list(modules))
}

fn leaves(modules: &[String]) -> BTreeSet<&str> {
    modules.iter().map(|module| module.rsplit('.').next().unwrap_or(module)).collect()
}

fn leaf_list(modules: &[String]) -> String {
    leaves(modules).into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn lora(yaml: &str) -> LoraConfig {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn model() -> Vec<String> {
        let mut modules = Vec::new();
        for layer in 0..12 {
            for leaf in ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"] {
                modules.push(format!("model.layers.{layer}.{leaf}"));
            }
        }
        modules.push("lm_head".into());
        modules
    }

    fn selected(yaml: &str) -> Vec<String> {
        let targets = LoraTargets::resolve(&lora(yaml), &model(), Some("lm_head")).unwrap();
        targets.0.into_iter().map(|target| target.module).collect()
    }

    fn refused(yaml: &str) -> String {
        LoraTargets::resolve(&lora(yaml), &model(), Some("lm_head")).unwrap_err().to_string()
    }

    #[test]
    fn lists_match_whole_paths_and_ends_behind_a_dot() {
        assert!(names_module("q_proj", "model.layers.3.self_attn.q_proj"));
        assert!(names_module("self_attn.q_proj", "model.layers.3.self_attn.q_proj"));
        assert!(names_module("lm_head", "lm_head"));
        assert!(!names_module("proj", "model.layers.3.self_attn.q_proj"));
        assert!(!names_module("q_proj", "model.layers.3.self_attn.q_proj.base"));
    }

    #[test]
    fn layer_index_is_pefts() {
        assert_eq!(layer_index("model.layers.3.self_attn.q_proj"), Some(3));
        assert_eq!(layer_index("transformer.h.11.mlp.c_fc"), Some(11));
        // The first number counts, not that of an expert.
        assert_eq!(layer_index("model.layers.1.experts.0.w1"), Some(1));
        // PEFT's pattern needs two parts before the number and one after it.
        assert_eq!(layer_index("layers.1.w1"), None);
        assert_eq!(layer_index("model.layers.1"), None);
        assert_eq!(layer_index("lm_head"), None);
        assert_eq!(layer_index(""), None);
        assert_eq!(layer_index("a.b.99999999999999999999999.c"), None);
    }

    #[test]
    fn all_linear_leaves_the_head_out_and_a_list_may_name_it() {
        assert_eq!(selected("{}").len(), 48);
        assert_eq!(selected("target_modules: [q_proj, lm_head]").len(), 13);
        assert_eq!(selected("{exclude_modules: [gate_proj, down_proj]}").len(), 24);
        assert_eq!(selected("{exclude_modules: '.*\\.mlp\\..*'}").len(), 24);
    }

    #[test]
    fn a_string_must_match_the_whole_path() {
        assert_eq!(selected("target_modules: '.*\\.(q|v)_proj'").len(), 24);
        // Look-ahead is only supported by a back-tracking engine.
        assert_eq!(selected("target_modules: 'model\\.layers\\.(?!0\\.).*q_proj'").len(), 11);
        // An alternation must not escape the anchors.
        assert_eq!(selected("target_modules: 'lm_head|.*\\.3\\..*q_proj'").len(), 2);
        let message = refused("target_modules: 'q_proj'");
        assert!(message.contains("whole path such as model.layers.0.self_attn.q_proj"), "{message}");
    }

    #[test]
    fn layers_narrow_a_list_but_not_a_whole_path() {
        assert_eq!(
            selected("{target_modules: [q_proj], layers_to_transform: 1}"),
            ["model.layers.1.self_attn.q_proj"]
        );
        assert_eq!(
            selected(
                "{target_modules: [v_proj, model.layers.5.mlp.gate_proj], layers_to_transform: [0, 11]}"
            ),
            [
                "model.layers.0.self_attn.v_proj",
                "model.layers.5.mlp.gate_proj",
                "model.layers.11.self_attn.v_proj"
            ]
        );
        let message = refused("{target_modules: [q_proj], layers_to_transform: [0, 12]}");
        assert!(message.contains("names layer 12, but this model's layers are 0 to 11"), "{message}");
    }

    #[test]
    fn patterns_give_ranks_and_scaling_and_the_first_wins() {
        let config = lora(
            "{r: 8, lora_alpha: 24, rank_pattern: {'layers\\.1\\..*q_proj': 2, q_proj: 4}, \
             alpha_pattern: {self_attn.q_proj: 12}}",
        );
        let patterns = Patterns::new(&config).unwrap();
        let rank = |module: &str| patterns.rank_for(module).unwrap();
        let scaling = |module: &str| patterns.scaling_for(module).unwrap();
        assert_eq!(rank("model.layers.1.self_attn.q_proj"), 2);
        assert_eq!(rank("model.layers.11.self_attn.q_proj"), 4);
        assert_eq!(rank("model.layers.1.self_attn.v_proj"), 8);
        // An end without a dot before it does not match.
        assert_eq!(rank("model.layers.2.self_attn.my_q_proj"), 8);
        assert_eq!(scaling("model.layers.1.self_attn.q_proj"), 6.0);
        assert_eq!(scaling("model.layers.1.self_attn.v_proj"), 3.0);
        let stabilised = LoraConfig { use_rslora: true, r: 16, lora_alpha: 24.0, ..LoraConfig::default() };
        assert_eq!(Patterns::new(&stabilised).unwrap().scaling_for("x").unwrap(), 6.0);
    }

    #[test]
    fn names_that_match_nothing_are_told_together_with_the_nearest() {
        let message = refused(
            "{target_modules: [q_prj, v_proj, k_proj], exclude_modules: [fc], rank_pattern: {gate_proj: 4}}",
        );
        assert!(
            message.contains("names q_prj, which matches no module of this model (did you mean q_proj?)"),
            "{message}"
        );
        assert!(message.contains("names k_proj"), "{message}");
        assert!(message.contains("exclude_modules names fc"), "{message}");
        assert!(
            message.contains("rank_pattern names gate_proj, which matches no module of the adapter"),
            "{message}"
        );
        assert!(message.contains("down_proj, gate_proj, lm_head, q_proj, v_proj"), "{message}");
        assert!(
            refused("{target_modules: [q_proj], exclude_modules: [q_proj]}").contains("selects no module")
        );
    }

    #[test]
    fn a_hostile_expression_gives_an_error_not_a_hang() {
        let config = lora("target_modules: '(?=(a+)+$)\\1b|(a|aa)+\\2$'");
        let patterns = Patterns::new(&config).unwrap();
        let _ = patterns.targets(&"a".repeat(60)).map_err(|error| assert!(matches!(error, Error::Config(_))));
    }
}
