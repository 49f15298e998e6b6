//! Which modules the configuration adapts, with which rank and alpha, by PEFT's rules (`check_target_module_exists` and
//! `get_pattern_key`, PEFT 0.21).
//!
//! PEFT matches the path of a module in the model it was trained in, which is the path in the names of its tensors. A file
//! whose tensors were renamed since then matches by the other names of the module.

use std::cell::RefCell;
use std::collections::BTreeSet;

use fancy_regex::{Regex, RegexBuilder};

use super::config::is_empty;
use super::{PREFIX, PeftConfig};
use crate::error::{Error, Result};
use crate::model::config::{Layers, LoraConfig, ModuleNames, TargetModules};
use crate::model::targets::Patterns;

/// A configuration's rules.
pub(super) struct Selection<'a> {
    config: &'a PeftConfig,
    rules: &'a LoraConfig,
    patterns: Patterns<'a>,
    layers: Vec<Regex>,
    /// Keys of both patterns that matched a module.
    used: RefCell<BTreeSet<(&'static str, String)>>,
    /// Those of them that matched with PEFT's own prefix.
    prefixed: RefCell<BTreeSet<String>>,
    /// Keys that matched a module by another of its names than the file's.
    renamed: RefCell<BTreeSet<String>>,
}

/// Limit of steps of a match of `layers_pattern`.
const MOST_STEPS: usize = 20_000;

impl<'a> Selection<'a> {
    /// `rules` are [`PeftConfig::rules`].
    ///
    /// # Errors
    /// If a regular expression does not compile, or PEFT refuses the combination of keys.
    pub(super) fn new(config: &'a PeftConfig, rules: &'a LoraConfig) -> Result<Self> {
        let by_layer = config.layers_to_transform.as_ref().is_some_and(|layers| !layers.indices().is_empty());
        let pattern = config.layers_pattern.as_ref().filter(|pattern| !is_empty(pattern));
        let by_list = matches!(rules.target_modules, TargetModules::Names(ModuleNames::List(_)));
        let refused = |key: &str, why: &str| {
            Err(Error::Adapter(format!("{key} is set, but {why}: PEFT refuses this; remove {key}")))
        };
        match (by_layer, pattern, by_list) {
            (true, _, false) => return refused("layers_to_transform", "target_modules is not a list"),
            (_, Some(_), false) => return refused("layers_pattern", "target_modules is not a list"),
            (false, Some(_), _) => return refused("layers_pattern", "layers_to_transform is not"),
            _ => {}
        }
        let lists = match pattern {
            None => Vec::new(),
            Some(ModuleNames::Regex(one)) => vec![one],
            Some(ModuleNames::List(several)) => several.iter().collect(),
        };
        let compiled = lists.into_iter().map(|list| layer_of(list)).collect::<Result<_>>()?;
        let patterns = Patterns::new(rules)?;
        Ok(Self {
            config,
            rules,
            patterns,
            layers: compiled,
            used: RefCell::default(),
            prefixed: RefCell::default(),
            renamed: RefCell::default(),
        })
    }

    /// Rank of a module, alpha and scale, by its names, its own first.
    ///
    /// # Errors
    /// If a regular expression gives up.
    pub(super) fn scale(&self, names: &[String]) -> Result<(usize, f64, f64)> {
        let rank = self.find("rank_pattern", names, |name| self.patterns.rank_key(name))?;
        let alpha = self.find("alpha_pattern", names, |name| self.patterns.alpha_key(name))?;
        let (rank, alpha) = (rank.unwrap_or(self.rules.r), alpha.unwrap_or(self.rules.lora_alpha));
        let divisor = if self.rules.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, alpha, alpha / divisor))
    }

    /// A pattern's value for a module; notes the key that matched.
    fn find<T>(
        &self,
        section: &'static str,
        names: &[String],
        look: impl Fn(&str) -> Result<Option<(&'a str, T)>>,
    ) -> Result<Option<T>> {
        let with_prefix = names.iter().map(|name| format!("{PREFIX}{name}"));
        for (at, name) in names.iter().cloned().chain(with_prefix).enumerate() {
            if let Some((key, value)) = look(&name)? {
                self.used.borrow_mut().insert((section, key.to_string()));
                let of = match at {
                    0 => None,
                    at if at < names.len() => Some(&self.renamed),
                    _ => Some(&self.prefixed),
                };
                of.into_iter().for_each(|of| {
                    of.borrow_mut().insert(format!("{section}.{key}"));
                });
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Keys that match a module with `base_model.model.` before it. PEFT matches without that prefix, and ignores them.
    pub(super) fn prefixed(&self) -> Vec<String> {
        self.prefixed.borrow().iter().cloned().collect()
    }

    /// Keys that match a module by its name in another layout, and are used here. PEFT would ignore them.
    pub(super) fn renamed(&self) -> Vec<String> {
        self.renamed.borrow().iter().cloned().collect()
    }

    /// Keys of both patterns that have not matched a module so far.
    pub(super) fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let ranks = self.rules.rank_pattern.keys().map(|key| ("rank_pattern", key));
        let alphas = self.rules.alpha_pattern.keys().map(|key| ("alpha_pattern", key));
        let unused = ranks.chain(alphas).filter(|(section, key)| !used.contains(&(*section, (*key).clone())));
        unused.map(|(section, key)| format!("{section}.{key}")).collect()
    }

    /// Whether PEFT adapts a module, by its names; `all-linear` leaves the head out.
    ///
    /// # Errors
    /// As [`Selection::scale`].
    pub(super) fn selects(&self, names: &[String], is_head: bool) -> Result<bool> {
        if self.config.target_modules == Some(TargetModules::AllLinear) && is_head {
            return Ok(false);
        }
        for (at, name) in names.iter().enumerate() {
            if self.patterns.targets(name)? && self.in_layers(name)? {
                if at > 0 {
                    self.renamed.borrow_mut().insert("target_modules".into());
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether `layers_to_transform` contains the number of the module in a list that `layers_pattern` names. A module that
    /// `target_modules` names by its whole path needs none.
    fn in_layers(&self, name: &str) -> Result<bool> {
        let whole = match &self.rules.target_modules {
            TargetModules::Names(ModuleNames::List(names)) => names.iter().any(|whole| whole == name),
            _ => false,
        };
        if self.layers.is_empty() || whole {
            return Ok(true);
        }
        let indices = self.config.layers_to_transform.as_ref().map_or(&[][..], Layers::indices);
        for regex in &self.layers {
            let found = regex.captures(name).map_err(|error| {
                Error::Adapter(format!("layers_pattern fails on {name} ({error}); write a simpler one"))
            })?;
            if let Some(found) = found {
                let index = found.get(1).and_then(|index| index.as_str().parse().ok());
                return Ok(index.is_some_and(|index: usize| indices.contains(&index)));
            }
        }
        Ok(false)
    }
}

/// PEFT's expression for a layer's number.
fn layer_of(list: &str) -> Result<Regex> {
    RegexBuilder::new(&format!(r"\A(?:|.*?\.)(?:{list})\.(\d+)\."))
        .backtrack_limit(MOST_STEPS)
        .build()
        .map_err(|error| {
            Error::Adapter(format!("layers_pattern is {list:?}, which is not a regular expression ({error})"))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::layout;
    use super::*;

    fn config(change: Value) -> PeftConfig {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["q_proj"]});
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        serde_json::from_value(config).unwrap()
    }

    fn scale(change: Value, module: &str) -> (usize, f64, f64) {
        let config = config(change);
        let rules = config.rules();
        Selection::new(&config, &rules).unwrap().scale(&layout::aliases(module)).unwrap()
    }

    fn selects(change: Value, module: &str) -> bool {
        let config = config(change);
        let rules = config.rules();
        Selection::new(&config, &rules)
            .unwrap()
            .selects(&layout::aliases(module), module == "lm_head")
            .unwrap()
    }

    #[test]
    fn keys_name_modules_by_every_layout_and_the_first_that_matches_wins() {
        let inside = "model.language_model.layers.1.self_attn.q_proj";
        for key in [
            inside,
            "model.layers.1.self_attn.q_proj",
            "language_model.model.layers.1.self_attn.q_proj",
            r"^model\.language_model\.layers\.1\..*",
            "_orig_mod.model.layers.1.self_attn.q_proj",
            "self_attn.q_proj",
        ] {
            for module in
                [inside, "model.layers.1.self_attn.q_proj", "language_model.model.layers.1.self_attn.q_proj"]
            {
                assert_eq!(
                    scale(json!({"alpha_pattern": {key: 400}}), module),
                    (4, 400.0, 100.0),
                    "{key} {module}"
                );
            }
            let other = "model.language_model.layers.11.self_attn.k_proj";
            assert_eq!(scale(json!({"alpha_pattern": {key: 400}}), other).1, 12.0, "{key}");
        }
        let patterns = json!({"rank_pattern": {"q_proj": 2, inside: 9}, "use_rslora": true});
        assert_eq!(scale(patterns, inside), (2, 12.0, 12.0 / 2f64.sqrt()));
    }

    #[test]
    fn a_modules_own_name_goes_before_its_others() {
        let patterns = json!({"alpha_pattern": {
            "model.layers.0.q_proj": 1, "model.language_model.layers.0.q_proj": 2,
        }});
        let inside = json!({"alpha_pattern": {"model.language_model.layers.0.q_proj": 2}});
        let renamed = |module: &str| {
            let config = config(inside.clone());
            let rules = config.rules();
            let selection = Selection::new(&config, &rules).unwrap();
            selection.scale(&layout::aliases(module)).unwrap();
            selection.renamed()
        };
        assert!(renamed("model.language_model.layers.0.q_proj").is_empty());
        assert_eq!(renamed("model.layers.0.q_proj"), ["alpha_pattern.model.language_model.layers.0.q_proj"]);
        assert_eq!(scale(patterns.clone(), "model.language_model.layers.0.q_proj").1, 2.0);
        assert_eq!(scale(patterns, "model.layers.0.q_proj").1, 1.0);
    }

    #[test]
    fn modules_are_selected_as_peft_selects_them() {
        let module = "model.layers.3.self_attn.q_proj";
        for (change, selected) in [
            (json!({}), true),
            (json!({"target_modules": ["k_proj"]}), false),
            (json!({"target_modules": "all-linear"}), true),
            (json!({"target_modules": "q_proj"}), false),
            (json!({"target_modules": r".*language_model.*\.q_proj"}), true),
            (json!({"target_modules": ["language_model.model.layers.3.self_attn.q_proj"]}), true),
            (json!({"exclude_modules": ["self_attn.q_proj"]}), false),
            (json!({"exclude_modules": r".*layers\.3\..*"}), false),
            (json!({"layers_to_transform": 3}), true),
            (json!({"layers_to_transform": [1, 2]}), false),
            (json!({"layers_to_transform": []}), true),
            (json!({"layers_to_transform": [3], "layers_pattern": "layers"}), true),
            (json!({"layers_to_transform": [3], "layers_pattern": ["h", "layers"]}), true),
            (json!({"layers_to_transform": [3], "layers_pattern": "h"}), false),
            (
                json!({"layers_to_transform": [0], "layers_pattern": "layers", "target_modules": [module]}),
                true,
            ),
        ] {
            assert_eq!(selects(change.clone(), module), selected, "{change}");
        }
        assert!(!selects(json!({"target_modules": "all-linear"}), "lm_head"));
        assert!(selects(json!({"target_modules": ["lm_head"]}), "lm_head"));
    }

    #[test]
    fn what_peft_refuses_is_refused_and_keys_without_effect_are_known() {
        for (change, word) in [
            (json!({"target_modules": "x", "layers_to_transform": [1]}), "layers_to_transform"),
            (json!({"layers_pattern": "layers"}), "layers_pattern"),
            (json!({"layers_pattern": "(", "layers_to_transform": 1}), "regular expression"),
        ] {
            let config = config(change.clone());
            let rules = config.rules();
            let Err(error) = Selection::new(&config, &rules) else { panic!("{change} is taken") };
            assert!(error.to_string().contains(word), "{error}");
        }
        let config = config(json!({"alpha_pattern": {"q_proj": 1, "k_proj": 2}, "rank_pattern": {"v": 3}}));
        let rules = config.rules();
        let selection = Selection::new(&config, &rules).unwrap();
        selection.scale(&["model.layers.0.q_proj".into()]).unwrap();
        assert!(selection.prefixed().is_empty());
        assert_eq!(selection.unused(), ["rank_pattern.v", "alpha_pattern.k_proj"]);
    }

    #[test]
    fn a_key_with_pefts_prefix_is_known_for_what_it_is() {
        let config = config(json!({"alpha_pattern": {r"base_model\.model\.model\.layers\.0\.q_proj": 9}}));
        let rules = config.rules();
        let selection = Selection::new(&config, &rules).unwrap();
        assert_eq!(selection.scale(&["model.layers.0.q_proj".into()]).unwrap().1, 9.0);
        assert_eq!(selection.prefixed(), [r"alpha_pattern.base_model\.model\.model\.layers\.0\.q_proj"]);
    }
}
