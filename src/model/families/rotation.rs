//! Rotary frequencies from `config.json`: the plain ones and the scalings, as `transformers.modeling_rope_utils`.

use std::f64::consts::PI;

use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::RotationSpec;
use crate::ops::rope::Pairing;

/// Where a family keeps its rotary settings.
pub(super) struct RotarySettings {
    /// The scaling's own keys (`rope_parameters`, `rope_scaling`), if there are any.
    scaling: Option<ConfigJson>,
    theta: f64,
    /// Share of a head's features that turn.
    pub(super) partial: f64,
    max_positions: usize,
}

impl RotarySettings {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta`, `rope_scaling` and `partial_rotary_factor` at top
    /// level.
    pub(super) fn read(config: &ConfigJson, default_theta: f64) -> Result<Self> {
        let scaling = config.part("rope_parameters").or_else(|| config.part("rope_scaling"));
        Self::from_parts(config, scaling, "rope_theta", default_theta)
    }

    /// With the scaling already found, and theta under `theta_key` at top level.
    pub(super) fn from_parts(
        config: &ConfigJson,
        scaling: Option<ConfigJson>,
        theta_key: &str,
        default_theta: f64,
    ) -> Result<Self> {
        let inner = |key: &str| scaling.as_ref().map_or(Ok(None), |part| part.number_or_none(key));
        let theta = match inner("rope_theta")? {
            Some(theta) => theta,
            None => config.number_or_none(theta_key)?.unwrap_or(default_theta),
        };
        let partial = match inner("partial_rotary_factor")? {
            Some(partial) => partial,
            None => match config.number_or_none("partial_rotary_factor")? {
                Some(partial) => partial,
                None => config.number_or_none("rotary_pct")?.unwrap_or(1.0),
            },
        };
        if !(theta > 0.0 && partial > 0.0 && partial <= 1.0) {
            return Err(
                config.error("rope_theta", &format!("theta {theta}, partial rotary factor {partial}"))
            );
        }
        Ok(Self { scaling, theta, partial, max_positions: config.size("max_position_embeddings")? })
    }

    /// The rotation of heads of `head_dim` features.
    pub(super) fn rotation(&self, config: &ConfigJson, head_dim: usize) -> Result<RotationSpec> {
        let turned = (head_dim as f64 * self.partial) as usize;
        let plain: Vec<f32> = (0..turned / 2).map(|i| frequency(self.theta, i, turned)).collect();
        let spec = |frequencies, scale: f64| RotationSpec {
            frequencies,
            scale: scale as f32,
            pairing: Pairing::Halves,
        };
        let Some(scaling) = &self.scaling else { return Ok(spec(plain, 1.0)) };
        let kind = match (scaling.get("rope_type"), scaling.get("type")) {
            (Some(kind), _) | (None, Some(kind)) => kind.as_str().unwrap_or("?").to_string(),
            (None, None) => "default".to_string(),
        };
        match kind.as_str() {
            "default" => Ok(spec(plain, 1.0)),
            "linear" => {
                let factor = scaling.number("factor")? as f32;
                Ok(spec(plain.iter().map(|f| f / factor).collect(), 1.0))
            }
            "llama3" => Ok(spec(llama3(scaling, &plain)?, 1.0)),
            "yarn" => {
                let (frequencies, scale) = self.yarn(scaling, &plain, turned)?;
                Ok(spec(frequencies, scale))
            }
            other => Err(config.error(
                "rope_scaling",
                &format!("type {other:?} is not supported; known: default, linear, llama3, yarn"),
            )),
        }
    }

    /// Yarn (Peng et al. 2023, arXiv 2309.00071, §3.2 and §3.4).
    fn yarn(&self, scaling: &ConfigJson, plain: &[f32], turned: usize) -> Result<(Vec<f32>, f64)> {
        let factor = scaling.number("factor")?;
        let original =
            scaling.number_or_none("original_max_position_embeddings")?.unwrap_or(self.max_positions as f64);
        let setting = |key: &str, default: f64| {
            Ok::<_, crate::error::Error>(scaling.number_or_none(key)?.unwrap_or(default))
        };
        let attention = match scaling.number_or_none("attention_factor")? {
            Some(factor) => factor,
            None if factor <= 1.0 => 1.0,
            None => 0.1 * factor.ln() + 1.0,
        };
        // The pair that turns `rotations` times over the original positions.
        let pair = |rotations: f64| {
            turned as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (pair(setting("beta_fast", 32.0)?), pair(setting("beta_slow", 1.0)?));
        if scaling.flag("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(turned as f64 - 1.0));
        let span = if high > low { high - low } else { 0.001 };
        let frequencies = plain.iter().enumerate().map(|(i, f)| {
            let ramp = ((i as f64 - low) / span).clamp(0.0, 1.0) as f32;
            f / factor as f32 * ramp + f * (1.0 - ramp)
        });
        Ok((frequencies.collect(), attention))
    }
}

/// `1 / theta^(2i / turned)`, in f32 as torch computes it.
pub(super) fn frequency(theta: f64, i: usize, turned: usize) -> f32 {
    1.0 / (theta.powf(f64::from((2 * i) as f32 / turned as f32)) as f32)
}

/// Llama 3.1's scaling: long waves are slowed, short ones kept, between them a blend.
fn llama3(scaling: &ConfigJson, plain: &[f32]) -> Result<Vec<f32>> {
    let factor = scaling.number("factor")?;
    let (low, high) = (scaling.number("low_freq_factor")?, scaling.number("high_freq_factor")?);
    let original = scaling.number("original_max_position_embeddings")?;
    Ok(plain
        .iter()
        .map(|f| {
            let wave = 2.0 * PI / f64::from(*f);
            if wave < original / high {
                *f
            } else if wave > original / low {
                (f64::from(*f) / factor) as f32
            } else {
                let smooth = (original / wave - low) / (high - low);
                ((1.0 - smooth) * f64::from(*f) / factor + smooth * f64::from(*f)) as f32
            }
        })
        .collect())
}
