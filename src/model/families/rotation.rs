//! Rotary frequencies from `config.json`, as transformers 5 standardises and computes them
//! (`modeling_rope_utils.RotaryEmbeddingConfigMixin`, `ROPE_INIT_FUNCTIONS`).

use serde_json::Value;

use super::json::ConfigJson;
use super::unread::shown;
use crate::error::Result;

/// The rotary settings of a model, or of one kind of layer.
#[derive(Debug)]
pub(super) struct Rotary {
    /// The keys of the scaling itself (`rope_scaling`, `rope_parameters`), if any.
    pub(super) scaling: Option<ConfigJson>,
    /// `rope_type`.
    pub(super) kind: String,
    pub(super) theta: f64,
    /// The share of a head's features that are rotated.
    pub(super) partial: f64,
    /// Whether YaRN truncates its range (`truncate`), read as transformers reads it.
    pub(super) truncate: bool,
    pub(super) max_positions: f64,
    /// Number of positions before a scaling that extends them.
    pub(super) original: f64,
}

/// The keys for θ and the rotated share outside `rope_parameters`.
pub(super) struct Names {
    pub theta: &'static str,
    pub partial: &'static str,
    /// Whether the model uses a share at all; other models ignore it, so a share is refused for them.
    pub turns_partly: bool,
}

/// The names for most families, in which all features of a head are rotated.
pub(super) const WHOLE: Names =
    Names { theta: "rope_theta", partial: "partial_rotary_factor", turns_partly: false };
/// The names for families that rotate only a share of a head's features.
pub(super) const PARTLY: Names = Names { turns_partly: true, ..WHOLE };

impl Rotary {
    /// Reads the settings of a model whose layers all use the same.
    pub(super) fn read(config: &ConfigJson, names: &Names) -> Result<Self> {
        // A top-level value takes precedence if it is one of the class's fields.
        let top = config.number_or_none("original_max_position_embeddings")?;
        Self::new(config, scaling(config)?, names, "", top)
    }

    /// Reads the settings of one kind of layer from `scaling`.
    pub(super) fn of_kind(
        config: &ConfigJson,
        scaling: Option<ConfigJson>,
        names: &Names,
        default: &str,
    ) -> Result<Self> {
        let rotary = Self::new(config, scaling, names, default, None)?;
        if !rotary.truncate {
            return Err(config.error(
                "rope_parameters",
                "truncate of one kind of layer is ignored by transformers; remove it",
            ));
        }
        Ok(rotary)
    }

    fn new(
        config: &ConfigJson,
        scaling: Option<ConfigJson>,
        names: &Names,
        default: &str,
        top: Option<f64>,
    ) -> Result<Self> {
        let inner = |key: &str| scaling.as_ref().map_or(Ok(None), |part| part.number_or_none(key));
        let class = |of: fn(&super::class::Class, &str) -> f64| config.class.map_or(1.0, |c| of(c, default));
        let outer = match config.given(names.theta) {
            Some(_) => config.number(names.theta)?,
            None => config.class.map_or(10_000.0, |class| class.theta(default)),
        };
        refuse_nulls(config, scaling.as_ref(), names)?;
        let theta = inner("rope_theta")?.unwrap_or(outer);
        let outer = match config.given(names.partial) {
            Some(_) => config.number(names.partial)?,
            None => class(|class, _| class.partial_rotary_factor()),
        };
        let partial = inner("partial_rotary_factor")?.unwrap_or(outer);
        // A base of 1 rotates all pairs alike, and its logarithm is a divisor.
        if !(theta > 1.0 && partial > 0.0 && partial <= 1.0) {
            let why = format!(
                "theta is {theta} and partial rotary factor is {partial}; expected above 1, and above 0 and at most 1"
            );
            return Err(config.error(names.theta, &why));
        }
        if partial != 1.0 && !names.turns_partly {
            let why = "this family's model in transformers rotates whole heads and ignores it; remove it";
            config.refuse(names.partial, why)?;
        }
        let partial = if names.turns_partly { partial } else { 1.0 };
        let max_positions = config.number("max_position_embeddings")?;
        let scaled = scaling.as_ref();
        let original = |part: &ConfigJson| part.number_or_none("original_max_position_embeddings");
        let nested = scaled.map_or(Ok(None), original)?;
        if let (Some(top), Some(nested)) = (top, nested)
            && top != nested
        {
            config.note(
                "original_max_position_embeddings",
                &format!(
                    "is {top} here and {nested} in the rotary settings; {top} is used, as transformers does"
                ),
            );
        }
        let truncate = scaled.is_none_or(|part| {
            part.given("truncate");
            !matches!(part.values.get("truncate"), Some(Value::Bool(false) | Value::Null))
        });
        Ok(Self {
            kind: kind(scaled)?,
            theta,
            partial,
            truncate,
            max_positions,
            original: top.or(nested).unwrap_or(max_positions),
            scaling,
        })
    }

    /// Renames the types in `from` to `to` (Phi-3 calls longrope `su` and `yarn`).
    pub(super) fn renamed(self, from: &[&str], to: &str) -> Self {
        let kind = if from.contains(&self.kind.as_str()) { to.to_string() } else { self.kind };
        Self { kind, ..self }
    }

    /// The base of the frequencies.
    pub(super) fn theta(&self) -> f64 {
        self.theta
    }

    /// The share of a head's features that are rotated.
    pub(super) fn partial(&self) -> f64 {
        self.partial
    }

    /// Multiplies the base by a factor.
    pub(super) fn stretched(self, factor: f64) -> Self {
        Self { theta: self.theta * factor, ..self }
    }

    /// Marks settings as read that the model does not use.
    pub(super) fn overlook(&self, keys: &[&str]) {
        keys.iter().for_each(|key| self.scaling.iter().for_each(|part| part.mark(key)));
    }

    /// Checks that Qwen 3 VL's settings have three position axes.
    pub(super) fn check_axes(&self, config: &ConfigJson) -> Result<()> {
        let given = self.scaling.as_ref().map_or(Ok(None), |part| part.numbers_or_none("mrope_section"))?;
        if given.is_none_or(|sections| sections.len() == 3) {
            return Ok(());
        }
        Err(config
            .error("rope_parameters.mrope_section", "does not name three shares of the pairs of features"))
    }

    /// Checks that the shares of Qwen 2.5 VL's position axes add up to all pairs; otherwise transformers fails.
    pub(super) fn check_sections(&self, config: &ConfigJson, head_dim: usize) -> Result<()> {
        let given = self.scaling.as_ref().map_or(Ok(None), |part| part.numbers_or_none("mrope_section"))?;
        let sections = given.unwrap_or_else(|| vec![16.0, 24.0, 24.0]);
        if sections.iter().sum::<f64>() == (head_dim / 2) as f64 {
            return Ok(());
        }
        let why = format!("{sections:?} does not add up to {} pairs of features", head_dim / 2);
        Err(config.error("rope_parameters.mrope_section", &why))
    }

    /// `rope_type`.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// Reads a number from the scaling's own keys.
    pub(super) fn setting(&self, key: &str) -> Result<Option<f64>> {
        self.scaling.as_ref().map_or(Ok(None), |part| part.number_or_none(key))
    }

    /// Number of positions before the scaling.
    pub(super) fn original(&self) -> f64 {
        self.original
    }
}

/// Returns the rotary settings in effect: `rope_scaling` takes precedence over `rope_parameters`, as in transformers 5.
/// If both are present and differ, a note tells the user.
pub(super) fn scaling(config: &ConfigJson) -> Result<Option<ConfigJson>> {
    for key in ["rope_scaling", "rope_parameters"] {
        if let Some(value) = config.given(key).filter(|value| !value.is_object()) {
            return Err(config.error(key, &format!("is {}, expected an object", shown(value))));
        }
    }
    let filled = |key: &str| config.part(key).filter(|part| !part.values.is_empty());
    let (old, new) = (filled("rope_scaling"), filled("rope_parameters"));
    let Some(old) = old else { return Ok(new) };
    if let Some(new) = new {
        // The values in effect come from `old`, so these keys are not left unread.
        new.values.keys().for_each(|key| new.mark(key));
        if differ(config, &old, &new) {
            config.note(
                "rope_scaling",
                "and rope_parameters disagree; rope_scaling is used, as transformers does",
            );
        }
    }
    Ok(Some(old))
}

/// Refuses null for keys where it does not mean absent, because transformers fails on it.
fn refuse_nulls(config: &ConfigJson, scaling: Option<&ConfigJson>, names: &Names) -> Result<()> {
    let inner = [
        "rope_theta",
        "rope_type",
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "mrope_section",
    ];
    let inner = inner.into_iter().filter_map(|key| Some((scaling?, key)));
    for (part, key) in inner.chain([(config, names.theta)]) {
        if part.values.get(key).is_some_and(Value::is_null) {
            return Err(part.error(key, "is null; remove it, or name a value"));
        }
    }
    Ok(())
}

/// Returns a part updated with the values of another.
pub(super) fn updated(mut part: ConfigJson, over: &ConfigJson) -> ConfigJson {
    for (key, value) in &over.values {
        over.mark(key);
        part.values.insert(key.clone(), value.clone());
    }
    part
}

/// Returns whether two forms of the settings disagree.
fn differ(config: &ConfigJson, old: &ConfigJson, new: &ConfigJson) -> bool {
    let mut keys: Vec<&str> = old.values.keys().chain(new.values.keys()).map(String::as_str).collect();
    keys.retain(|key| !["type", "rope_type"].contains(key));
    let value = |part: &ConfigJson, key: &str| {
        let default = || config.values.get(key).or_else(|| config.class?.default(key)).cloned();
        part.values.get(key).cloned().or_else(default).filter(|value| !value.is_null())
    };
    let number = |value: Option<Value>| value.map(|value| value.as_f64().map_or(value, Value::from));
    let kinds = (kind(Some(old)).ok(), kind(Some(new)).ok());
    kinds.0 != kinds.1 || keys.iter().any(|key| number(value(old, key)) != number(value(new, key)))
}

fn kind(scaling: Option<&ConfigJson>) -> Result<String> {
    let Some(scaling) = scaling else { return Ok("default".into()) };
    let (new, old) = (scaling.string_or_none("rope_type")?, scaling.string_or_none("type")?);
    Ok(new.or(old).unwrap_or_else(|| "default".into()))
}
