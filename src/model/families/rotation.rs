//! Rotary frequencies from `config.json`, as transformers 5 standardises and computes them
//! (`modeling_rope_utils.RotaryEmbeddingConfigMixin`, `ROPE_INIT_FUNCTIONS`).

use std::f64::consts::PI;

use serde_json::Value;

use super::json::ConfigJson;
use super::unread::shown;
use crate::error::{Error, Result};
use crate::model::spec::{ByLength, RotationSpec};
use crate::ops::rope::Pairing;

/// The rotary settings of a model, or of one kind of its layers.
#[derive(Debug)]
pub(super) struct Rotary {
    /// The scaling's own keys (`rope_scaling`, `rope_parameters`), if there are any.
    scaling: Option<ConfigJson>,
    /// `rope_type`.
    kind: String,
    theta: f64,
    /// Share of a head's features that turn.
    partial: f64,
    /// Where `truncate` of yarn is read, as transformers reads it.
    truncate: bool,
    max_positions: f64,
    /// Positions before a scaling that stretches them.
    original: f64,
}

/// The keys that give θ and the share of turning features beside `rope_parameters`.
pub(super) struct Names {
    pub theta: &'static str,
    pub partial: &'static str,
    /// Whether the model computes with a share at all; others ignore it, and are refused one.
    pub turns_partly: bool,
}

/// What most families read; all features of a head turn.
pub(super) const WHOLE: Names =
    Names { theta: "rope_theta", partial: "partial_rotary_factor", turns_partly: false };
/// The same for families that turn a share of a head's features.
pub(super) const PARTLY: Names = Names { turns_partly: true, ..WHOLE };

impl Rotary {
    /// Reads the settings of a model whose layers all have the same.
    pub(super) fn read(config: &ConfigJson, names: &Names) -> Result<Self> {
        // A value at the top wins, where it is one of the class's fields.
        let top = config.number_or_none("original_max_position_embeddings")?;
        Self::new(config, scaling(config)?, names, "", top)
    }

    /// Reads the settings of one kind of layer, of which `scaling` was found.
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
        // A base of 1 turns all pairs alike, and its logarithm is divided by.
        if !(theta > 1.0 && partial > 0.0 && partial <= 1.0) {
            let why = format!(
                "theta is {theta} and partial rotary factor is {partial}; expected above 1, and above 0 and at most 1"
            );
            return Err(config.error(names.theta, &why));
        }
        if partial != 1.0 && !names.turns_partly {
            let why = "this family's model in transformers turns whole heads and ignores it; remove it";
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

    /// The same under another type's name (Phi-3 calls longrope `su` and `yarn`).
    pub(super) fn renamed(self, from: &[&str], to: &str) -> Self {
        let kind = if from.contains(&self.kind.as_str()) { to.to_string() } else { self.kind };
        Self { kind, ..self }
    }

    /// The base of the frequencies.
    pub(super) fn theta(&self) -> f64 {
        self.theta
    }

    /// Share of a head's features that turn.
    pub(super) fn partial(&self) -> f64 {
        self.partial
    }

    /// The same with the base times a factor.
    pub(super) fn stretched(self, factor: f64) -> Self {
        Self { theta: self.theta * factor, ..self }
    }

    /// Notes settings as read that the model does not read.
    pub(super) fn overlook(&self, keys: &[&str]) {
        keys.iter().for_each(|key| self.scaling.iter().for_each(|part| part.mark(key)));
    }

    /// Qwen 3 VL has three axes of positions.
    pub(super) fn check_axes(&self, config: &ConfigJson) -> Result<()> {
        let given = self.scaling.as_ref().map_or(Ok(None), |part| part.numbers_or_none("mrope_section"))?;
        if given.is_none_or(|sections| sections.len() == 3) {
            return Ok(());
        }
        Err(config.error("rope_parameters.mrope_section", "names no three shares of the pairs of features"))
    }

    /// Qwen 2.5 VL's axes of positions: their shares of the pairs add up to all pairs, or transformers fails.
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

    /// A number of the scaling's own.
    pub(super) fn setting(&self, key: &str) -> Result<Option<f64>> {
        self.scaling.as_ref().map_or(Ok(None), |part| part.number_or_none(key))
    }

    /// Positions before the scaling.
    pub(super) fn original(&self) -> f64 {
        self.original
    }

    /// The rotation of heads of `head_dim` features.
    pub(super) fn rotation(&self, config: &ConfigJson, head_dim: usize) -> Result<RotationSpec> {
        let turned = (head_dim as f64 * self.partial) as usize;
        if turned % 2 != 0 || turned == 0 {
            let why = format!("{} of {head_dim} features turn, {turned}; an even number can", self.partial);
            return Err(config.error("partial_rotary_factor", &why));
        }
        let plain: Vec<f32> = (0..turned / 2).map(|i| frequency(self.theta, i, turned)).collect();
        let spec = |frequencies, scale: f64| RotationSpec {
            frequencies,
            scale: scale as f32,
            pairing: Pairing::Halves,
            by_length: None,
            growth: None,
        };
        let Some(scaling) = &self.scaling else { return Ok(spec(plain, 1.0)) };
        let positive = |key: &str| {
            let number = scaling.number(key)?;
            if number > 0.0 {
                Ok(number)
            } else {
                Err(scaling.error(key, &format!("is {number}, expected above 0")))
            }
        };
        match self.kind.as_str() {
            "default" => Ok(spec(plain, 1.0)),
            "linear" => {
                let factor = positive("factor")? as f32;
                Ok(spec(plain.iter().map(|f| f / factor).collect(), 1.0))
            }
            "dynamic" => {
                let (theta, max) = (self.theta, self.max_positions as usize);
                let by_length = ByLength::Dynamic { theta, factor: positive("factor")?, max };
                Ok(RotationSpec { by_length: Some(by_length), ..spec(plain, 1.0) })
            }
            "llama3" => Ok(spec(llama3(scaling, self.original, &plain)?, 1.0)),
            "yarn" => {
                let (frequencies, scale) = self.yarn(scaling, &plain, turned)?;
                Ok(spec(frequencies, scale))
            }
            "longrope" => self.longrope(scaling, turned),
            other => Err(scaling.error(
                "rope_type",
                &format!(
                    "{other:?} is not supported; known: default, linear, dynamic, llama3, yarn, longrope"
                ),
            )),
        }
    }

    /// Yarn (Peng et al. 2023, arXiv 2309.00071, §3.2 and §3.4).
    fn yarn(&self, scaling: &ConfigJson, plain: &[f32], turned: usize) -> Result<(Vec<f32>, f64)> {
        let factor = match scaling.number_or_none("factor")? {
            Some(factor) => factor,
            None if scaling.values.contains_key("factor") => self.max_positions / self.original,
            None => return Err(scaling.error("factor", "is missing")),
        };
        // Zero counts as absent, as in Python's `or`.
        let setting = |key: &str| Ok::<_, Error>(scaling.number_or_none(key)?.filter(|value| *value != 0.0));
        let mscale = |of: f64| if factor <= 1.0 { 1.0 } else { 0.1 * of * factor.ln() + 1.0 };
        let (all, each) = (setting("mscale_all_dim")?, setting("mscale")?);
        let attention = match (scaling.number_or_none("attention_factor")?, each, all) {
            (Some(factor), ..) => factor,
            (None, Some(each), Some(all)) => mscale(each) / mscale(all),
            _ => mscale(1.0),
        };
        // The pair that turns `rotations` times over the original positions.
        let pair = |rotations: f64| {
            turned as f64 * (self.original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let (fast, slow) = (setting("beta_fast")?.unwrap_or(32.0), setting("beta_slow")?.unwrap_or(1.0));
        for (key, value) in [("beta_fast", fast), ("beta_slow", slow)] {
            if value <= 0.0 {
                return Err(scaling.error(key, &format!("is {value}, expected above 0")));
            }
        }
        let (mut low, mut high) = (pair(fast), pair(slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(turned as f64 - 1.0));
        let span = if high == low { 0.001 } else { high - low };
        let frequencies = plain.iter().enumerate().map(|(i, f)| {
            let ramp = ((i as f64 - low) / span).clamp(0.0, 1.0) as f32;
            f / factor as f32 * ramp + f * (1.0 - ramp)
        });
        Ok((frequencies.collect(), attention))
    }

    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor for each pair, one list up to the original positions and
    /// another for longer sequences.
    fn longrope(&self, scaling: &ConfigJson, turned: usize) -> Result<RotationSpec> {
        let factor = match scaling.number_or_none("factor")? {
            Some(factor) => factor,
            None => self.max_positions / self.original,
        };
        let attention = match scaling.number_or_none("attention_factor")? {
            Some(factor) => factor,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / self.original.ln()).sqrt(),
        };
        let frequencies = |key: &str| {
            let divisors = scaling.numbers_or_none(key)?.ok_or_else(|| scaling.error(key, "is missing"))?;
            if divisors.len() != turned / 2 || divisors.iter().any(|divisor| *divisor <= 0.0) {
                let why = format!("holds {} numbers; expected {}, each above 0", divisors.len(), turned / 2);
                return Err(scaling.error(key, &why));
            }
            let each = divisors.iter().enumerate();
            Ok(each.map(|(i, d)| 1.0 / (*d as f32 * power(self.theta, i, turned))).collect::<Vec<f32>>())
        };
        let long =
            ByLength::Long { beyond: self.original as usize, frequencies: frequencies("long_factor")? };
        Ok(RotationSpec {
            frequencies: frequencies("short_factor")?,
            scale: attention as f32,
            pairing: Pairing::Halves,
            by_length: Some(long),
            growth: None,
        })
    }
}

/// The rotary settings that count: `rope_scaling` before `rope_parameters`, as in transformers 5. Where both are there and
/// differ, the user is told.
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
        // What counts is read from `old`; these keys are not left over.
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

/// Keys whose null is no absence: transformers fails on it.
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

/// A part with the values of another put over it.
pub(super) fn updated(mut part: ConfigJson, over: &ConfigJson) -> ConfigJson {
    for (key, value) in &over.values {
        over.mark(key);
        part.values.insert(key.clone(), value.clone());
    }
    part
}

/// Whether two forms of the settings say different things.
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

/// `1 / theta^(2i / turned)`, in f32 as torch computes it.
pub(super) fn frequency(theta: f64, i: usize, turned: usize) -> f32 {
    1.0 / power(theta, i, turned)
}

fn power(theta: f64, i: usize, turned: usize) -> f32 {
    theta.powf(f64::from((2 * i) as f32 / turned as f32)) as f32
}

/// Llama 3.1's scaling: long waves are slowed, short ones kept, between them a blend.
fn llama3(scaling: &ConfigJson, original: f64, plain: &[f32]) -> Result<Vec<f32>> {
    let factor = scaling.number("factor")?;
    let (low, high) = (scaling.number("low_freq_factor")?, scaling.number("high_freq_factor")?);
    Ok(plain
        .iter()
        .map(|f| {
            let wave = 2.0 * PI / f64::from(*f);
            // In transformers' order, which counts where the limits are not.
            if wave > original / low {
                (f64::from(*f) / factor) as f32
            } else if wave < original / high {
                *f
            } else {
                let smooth = (original / wave - low) / (high - low);
                ((1.0 - smooth) * f64::from(*f) / factor + smooth * f64::from(*f)) as f32
            }
        })
        .collect())
}
