//! The `objective` section as written, and its conversion to an [`Objective`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_yaml::{Mapping, Value};

use super::modifiers::Modifiers;
use super::{Loss, Objective, Records};
use crate::error::{Error, Problems, Result, nearest};

/// Keys of the section that are not loss parameters.
const LOSS_TYPE: &str = "loss_type";
const LOSS_WEIGHTS: &str = "loss_weights";

/// The `objective` section of a run's configuration, with TRL's keys.
///
/// `loss_type` is the name of a loss, or a list of losses that are summed with `loss_weights`. Every other key is a
/// parameter of the named losses; a key that none of them has is rejected.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveConfig {
    /// The names of the losses.
    pub loss_type: Vec<String>,
    /// The weights of the losses; `None`: 1 for each.
    pub loss_weights: Option<Vec<f64>>,
    /// What modifies the losses.
    pub modifiers: Modifiers,
    /// The parameters that were set explicitly, by name.
    settings: BTreeMap<String, Value>,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        let (modifiers, settings) = (Modifiers::default(), BTreeMap::new());
        Self { loss_type: vec!["sigmoid".into()], loss_weights: None, modifiers, settings }
    }
}

impl From<&Objective> for ObjectiveConfig {
    /// Creates a section with every parameter set explicitly.
    fn from(objective: &Objective) -> Self {
        let modifiers = objective.modifiers.clone();
        let mut config = Self { loss_type: Vec::new(), modifiers, ..Self::default() };
        for (loss, _) in objective.losses() {
            config.loss_type.push(name(loss));
            config.settings.extend(parameters(loss));
        }
        let weights: Vec<f64> = objective.losses().iter().map(|(_, weight)| *weight).collect();
        config.loss_weights = weights.iter().any(|weight| *weight != 1.0).then_some(weights);
        config
    }
}

impl ObjectiveConfig {
    /// Returns every key that some loss accepts, sorted.
    pub fn keys() -> Vec<String> {
        let mut keys: Vec<String> =
            Loss::all().iter().flat_map(|loss| parameters(loss).into_keys()).collect();
        keys.extend([LOSS_TYPE.into(), LOSS_WEIGHTS.into()]);
        keys.extend(Modifiers::default().fields().into_iter().map(|(key, _)| key));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Returns the keys that these losses accept; every key for a name that no loss has.
    pub fn keys_of(losses: &[String]) -> BTreeSet<String> {
        let mut keys = BTreeSet::from([LOSS_TYPE.to_string(), LOSS_WEIGHTS.to_string()]);
        let modifiers = Modifiers::default().fields();
        for loss in losses {
            match known(loss) {
                Ok(loss) => {
                    let of_beta =
                        |key: &str| key.starts_with("beta") && parameters(&loss).contains_key("beta");
                    let applies = |key: &&String| is_modified(&loss) || of_beta(key);
                    keys.extend(modifiers.iter().map(|(key, _)| key).filter(applies).cloned());
                    keys.extend(parameters(&loss).into_keys());
                }
                Err(_) => keys.extend(Self::keys()),
            }
        }
        keys
    }

    /// Whether a loss has this name.
    pub fn is_loss(name: &str) -> bool {
        known(name).is_ok()
    }

    /// Returns a copy with one parameter set.
    #[must_use]
    pub fn with(mut self, key: &str, value: f64) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Builds the objective that the section describes.
    ///
    /// # Errors
    /// Returns [`Error::Config`], which names every invalid value, every key that the losses do not have, and the
    /// remedy.
    pub fn resolve(&self) -> Result<Objective> {
        let mut problems = Problems::default();
        let mut losses = Vec::new();
        for name in &self.loss_type {
            match self.loss(name) {
                Ok(loss) => losses.push(loss),
                Err(message) => problems.add(format!("objective.loss_type is {name}; {message}")),
            }
        }
        problems.require(!self.loss_type.is_empty(), || {
            "objective.loss_type is an empty list; name a loss".into()
        });
        self.check_settings(&losses, &mut problems);
        losses.iter().for_each(|loss| loss.terms().check(&mut problems));
        let weights = self.weights(&mut problems);
        self.check_together(&losses, &mut problems);
        problems.finish()?;
        let losses = losses.into_iter().zip(weights).collect();
        Objective { losses, modifiers: Modifiers::default() }.modified(self.modifiers.clone())
    }

    /// # Errors
    /// Same as [`ObjectiveConfig::resolve`].
    pub fn validate(&self) -> Result<()> {
        self.resolve().map(drop)
    }

    /// Builds a loss from the settings that apply to it.
    fn loss(&self, name: &str) -> Result<Loss, String> {
        let default = known(name)?;
        let mut fields: Mapping =
            parameters(&default).into_iter().map(|(key, value)| (Value::from(key), value)).collect();
        for (key, value) in &self.settings {
            if let Some(field) = fields.get_mut(key.as_str()) {
                *field = value.clone();
            }
        }
        fields.insert(LOSS_TYPE.into(), name.into());
        serde_yaml::from_value(Value::Mapping(fields)).map_err(|error| error.to_string())
    }

    fn check_settings(&self, losses: &[Loss], problems: &mut Problems) {
        for key in self.settings.keys() {
            let used = losses.iter().any(|loss| parameters(loss).contains_key(key));
            problems.require(used || losses.is_empty(), || {
                let owners: Vec<String> =
                    Loss::all().iter().filter(|loss| parameters(loss).contains_key(key)).map(name).collect();
                format!(
                    "objective.{key} is set, and loss_type {} has no such parameter; remove the line (it is a parameter of {})",
                    self.loss_type.join(", "),
                    owners.join(", ")
                )
            });
        }
    }

    fn weights(&self, problems: &mut Problems) -> Vec<f64> {
        let Some(weights) = &self.loss_weights else { return vec![1.0; self.loss_type.len()] };
        problems.require(weights.len() == self.loss_type.len(), || {
            format!(
                "objective.loss_weights has {} numbers and objective.loss_type {} losses; give one weight for each loss",
                weights.len(),
                self.loss_type.len()
            )
        });
        problems.require(weights.iter().all(|weight| weight.is_finite()), || {
            "objective.loss_weights holds a number that is not finite".into()
        });
        problems.require(weights.iter().any(|weight| *weight != 0.0), || {
            "objective.loss_weights are all 0, so that nothing is trained".into()
        });
        weights.clone()
    }

    /// Checks that summed losses compare the same records with the same parameters and the same divergence.
    fn check_together(&self, losses: &[Loss], problems: &mut Problems) {
        let Some((first, others)) = losses.split_first() else { return };
        for other in others.iter().filter(|other| other.needs().rewards != first.needs().rewards) {
            problems.add(format!(
                "objective.loss_type adds {} and {}, and only one of them trains a reward model",
                name(first),
                name(other)
            ));
        }
        let mut records = first.needs().records;
        for other in others {
            let own = other.needs().records;
            let fits = records == own
                || matches!(
                    (records, own),
                    (Records::Pairs, Records::Texts) | (Records::Texts, Records::Pairs)
                );
            problems.require(fits, || {
                format!(
                    "objective.loss_type adds {} and {}, which take different records",
                    name(first),
                    name(other)
                )
            });
            records = records.with(own);
        }
        for (key, value) in parameters(first) {
            let apart =
                others.iter().find(|other| parameters(other).get(&key).is_some_and(|own| *own != value));
            if let Some(other) = apart {
                problems.add(format!(
                    "objective.{key} has one default for {} and another for {}; set it",
                    name(first),
                    name(other)
                ));
            }
        }
        let drawn = losses.iter().find(|loss| loss.on_policy().is_some());
        if let Some(drawn) = drawn.filter(|_| losses.len() > 1) {
            problems.add(format!(
                "objective.loss_type adds {} and others, and a loss of completions that the policy draws stands alone",
                name(drawn)
            ));
        }
        self.check_divergence(losses, problems);
    }

    /// Checks that every loss supports the chosen divergence, as TRL requires; `sft` has none.
    fn check_divergence(&self, losses: &[Loss], problems: &mut Problems) {
        const KEY: &str = "f_divergence_type";
        if !losses.iter().any(|loss| parameters(loss).get(KEY).is_some_and(|kind| kind != "reverse_kl")) {
            return;
        }
        for loss in losses.iter().filter(|loss| !parameters(loss).contains_key(KEY)) {
            problems.require(loss.needs().records == Records::Texts, || {
                format!("objective.{KEY} is set, and {} is defined for reverse_kl only", name(loss))
            });
        }
    }
}

/// Returns the loss of this name with its default parameters.
fn known(wanted: &str) -> Result<Loss, String> {
    let all = Loss::all();
    if let Some(loss) = all.iter().find(|loss| name(loss) == wanted) {
        return Ok(loss.clone());
    }
    let names: Vec<String> = all.iter().map(name).collect();
    let hint = nearest(wanted, names.iter().map(String::as_str))
        .map_or_else(String::new, |near| format!(" Did you mean {near}?"));
    Err(format!("no loss has this name.{hint} There are: {}", names.join(", ")))
}

/// Returns the fields of a loss.
fn fields(loss: &Loss) -> Mapping {
    match serde_yaml::to_value(loss) {
        Ok(Value::Mapping(fields)) => fields,
        // Not reached: a loss is a tagged struct of plain numbers and strings.
        _ => Mapping::new(),
    }
}

pub(super) fn name(loss: &Loss) -> String {
    fields(loss).get(LOSS_TYPE).and_then(Value::as_str).unwrap_or_default().to_string()
}

pub(super) fn parameters(loss: &Loss) -> BTreeMap<String, Value> {
    let named = |(key, value): (Value, Value)| key.as_str().map(|key| (key.to_string(), value));
    fields(loss).into_iter().filter_map(named).filter(|(key, _)| key != LOSS_TYPE).collect()
}

impl Serialize for ObjectiveConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Mapping::new();
        let losses = match self.loss_type.as_slice() {
            [one] => Value::from(one.as_str()),
            many => many.iter().map(String::as_str).collect(),
        };
        fields.insert(LOSS_TYPE.into(), losses);
        let weights =
            self.loss_weights.as_ref().map_or(Value::Null, |weights| weights.iter().copied().collect());
        fields.insert(LOSS_WEIGHTS.into(), weights);
        fields.extend(self.modifiers.fields().into_iter().map(|(key, value)| (Value::from(key), value)));
        fields.extend(self.settings.iter().map(|(key, value)| (Value::from(key.as_str()), value.clone())));
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ObjectiveConfig {
    /// Checks that each setting has the type that losses with this key expect. `null` means the default.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut config = Self::default();
        let mut modifiers = Mapping::new();
        let known_modifiers = config.modifiers.fields();
        for (key, value) in BTreeMap::<String, Value>::deserialize(deserializer)? {
            if value.is_null() {
                continue;
            }
            if known_modifiers.iter().any(|(known, _)| *known == key) {
                modifiers.insert(key.into(), value);
                continue;
            }
            match key.as_str() {
                LOSS_TYPE => config.loss_type = names(value).map_err(de::Error::custom)?,
                LOSS_WEIGHTS => {
                    config.loss_weights = Some(serde_yaml::from_value(value).map_err(de::Error::custom)?);
                }
                _ => {
                    if is_number(&key) && !value.is_number() {
                        let found = de::Unexpected::Other("a value of another type");
                        return Err(de::Error::invalid_type(found, &"a number"));
                    }
                    typed(&key, &value).map_err(de::Error::custom)?;
                    config.settings.insert(key, value);
                }
            }
        }
        config.modifiers = serde_yaml::from_value(Value::Mapping(modifiers)).map_err(de::Error::custom)?;
        Ok(config)
    }
}

/// Whether the modifiers change a loss: one of pairs with a reference.
pub(super) fn is_modified(loss: &Loss) -> bool {
    let needs = loss.needs();
    needs.reference && needs.records == Records::Pairs
}

/// Reads one loss name or a list of loss names.
fn names(value: Value) -> Result<Vec<String>, String> {
    let names: Vec<String> = match value {
        Value::String(name) => vec![name],
        list => {
            serde_yaml::from_value(list).map_err(|_| "expected the name of a loss, or a list of names")?
        }
    };
    names.iter().try_for_each(|name| known(name).map(drop))?;
    Ok(names)
}

/// Whether a key is a number in the losses that have it.
fn is_number(key: &str) -> bool {
    Loss::all().iter().filter_map(|loss| parameters(loss).remove(key)).any(|default| default.is_number())
}

/// Checks that a value has the type of its key.
fn typed(key: &str, value: &Value) -> Result<(), String> {
    let Some(loss) = Loss::all().into_iter().find(|loss| parameters(loss).contains_key(key)) else {
        return Err(format!("unknown field `{key}`, expected one of {}", ObjectiveConfig::keys().join(", ")));
    };
    let mut fields = fields(&loss);
    fields.insert(key.into(), value.clone());
    serde_yaml::from_value::<Loss>(Value::Mapping(fields)).map(drop).map_err(|error| error.to_string())
}

impl Loss {
    /// Returns the name used in a configuration.
    pub fn name(&self) -> String {
        name(self)
    }
}

impl Objective {
    /// Parses the output of [`Objective::to_json`].
    ///
    /// # Errors
    /// Returns [`Error::Config`] if the text is not an objective.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: ObjectiveConfig =
            serde_json::from_str(text).map_err(|error| Error::Config(format!("objective: {error}")))?;
        config.resolve()
    }

    /// Serializes all parameters as one line of JSON.
    ///
    /// # Errors
    /// Returns [`Error::Config`] if a number cannot be serialized.
    pub fn to_json(&self) -> Result<String> {
        let broken = |error| Error::Config(format!("objective: {error}"));
        let mut fields = serde_json::to_value(ObjectiveConfig::from(self)).map_err(broken)?;
        if let Some(fields) = fields.as_object_mut() {
            // What modifies nothing is left out.
            for (key, default) in Modifiers::default().fields() {
                let default = serde_json::to_value(default).map_err(broken)?;
                if fields.get(&key) == Some(&default) {
                    fields.shift_remove(&key);
                }
            }
        }
        serde_json::to_string(&fields).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ipo, Sigmoid};
    use super::*;

    fn resolve(yaml: &str) -> Result<Objective> {
        serde_yaml::from_str::<ObjectiveConfig>(yaml).map_err(|e| Error::Config(e.to_string()))?.resolve()
    }

    fn refused(yaml: &str) -> String {
        resolve(yaml).unwrap_err().to_string()
    }

    #[test]
    fn names_and_parameters_are_those_of_trl() {
        assert_eq!(resolve("{}").unwrap(), Objective::default());
        let smoothed = Sigmoid { beta: 0.5, label_smoothing: 0.1, ..Sigmoid::default() };
        assert_eq!(resolve("{beta: 5e-1, label_smoothing: 0.1}").unwrap(), Objective::new(smoothed));
        assert_eq!(
            resolve("{loss_type: ipo, beta: 1}").unwrap(),
            Objective::new(Ipo { beta: 1.0, ..Ipo::default() })
        );
        assert_eq!(
            resolve("{loss_type: ipo, label_smoothing: null}").unwrap(),
            Objective::new(Ipo::default())
        );
        let list =
            resolve("{loss_type: [sigmoid, ipo], loss_weights: [1, 0.2], label_smoothing: 0.2}").unwrap();
        assert_eq!(list.losses()[1], (Ipo::default().into(), 0.2));
        assert_eq!(list.losses()[0].0, Sigmoid { label_smoothing: 0.2, ..Sigmoid::default() }.into());
    }

    #[test]
    fn wrong_values_are_named_together() {
        let message = refused("{beta: 0, label_smoothing: 0.5}");
        assert!(message.contains("objective.beta is 0;"), "{message}");
        assert!(message.contains("objective.label_smoothing is 0.5;"), "{message}");
        assert!(refused("beta: .nan").contains("objective.beta is NaN"));
        assert!(refused("beta: fast").contains("expected a number"));
        assert!(refused("{loss_type: [sigmoid, ipo], loss_weights: [1]}").contains("has 1 numbers"));
        assert!(refused("{loss_type: [sigmoid, ipo], loss_weights: [0, 0]}").contains("all 0"));
        assert!(refused("loss_type: []").contains("name a loss"));
    }

    #[test]
    fn unknown_losses_and_foreign_keys_are_refused() {
        let message = refused("loss_type: igo");
        assert!(
            message.contains("Did you mean ipo?") && message.contains("sigmoid, hinge, ipo"),
            "{message}"
        );
        assert!(refused("bta: 0.1").contains("unknown field `bta`"));
        let message = refused("{loss_type: ipo, label_smoothing: 0.1}");
        assert!(
            message.contains("loss_type ipo has no such parameter") && message.contains("of sigmoid"),
            "{message}"
        );
    }

    #[test]
    fn losses_that_are_added_agree_on_records_parameters_and_divergence() {
        resolve("{loss_type: [sigmoid, sft], loss_weights: [1, 0.1]}").unwrap();
        assert!(refused("loss_type: [sigmoid, kto]").contains("different records"));
        assert!(refused("loss_type: [simpo, alphapo]").contains("cpo_alpha has one default for simpo"));
        resolve("{loss_type: [simpo, alphapo], cpo_alpha: 0.5}").unwrap();
        resolve("{loss_type: [sigmoid, sft], f_divergence_type: forward_kl}").unwrap();
        let message = refused("{loss_type: [sigmoid, apo_zero], f_divergence_type: forward_kl}");
        assert!(message.contains("apo_zero is defined for reverse_kl only"), "{message}");
        assert!(refused("f_divergence_type: kl").contains("unknown variant `kl`"));
        assert!(refused("loss_type: exo_pair").contains("label_smoothing is 0"));
    }

    #[test]
    fn every_loss_reads_back_from_its_json() {
        for mut loss in Loss::all() {
            if let Loss::ExoPair(exo) = &mut loss {
                // It has no valid default.
                exo.label_smoothing = 1e-3;
            }
            let objective = Objective { losses: vec![(loss, 0.25)], modifiers: Modifiers::default() };
            assert_eq!(Objective::from_json(&objective.to_json().unwrap()).unwrap(), objective);
        }
    }
}
