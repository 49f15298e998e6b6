//! Frequencies for each rotary type, computed as by `ROPE_INIT_FUNCTIONS` of transformers 5.

use std::f64::consts::PI;

use super::json::ConfigJson;
use super::rotation::Rotary;
use crate::error::{Error, Result};
use crate::model::spec::{ByLength, RotationSpec};
use crate::ops::rope::Pairing;

impl Rotary {
    /// Returns the rotation for heads of `head_dim` features.
    pub(super) fn rotation(&self, config: &ConfigJson, head_dim: usize) -> Result<RotationSpec> {
        let turned = (head_dim as f64 * self.partial) as usize;
        if !turned.is_multiple_of(2) || turned == 0 {
            let why = format!(
                "{} of {head_dim} features is {turned}, but an even number above 0 must be rotated",
                self.partial
            );
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

    /// Computes YaRN (Peng et al. 2023, arXiv 2309.00071, §3.2 and §3.4).
    fn yarn(&self, scaling: &ConfigJson, plain: &[f32], turned: usize) -> Result<(Vec<f32>, f64)> {
        let factor = match scaling.number_or_none("factor")? {
            Some(factor) => factor,
            None if scaling.values.contains_key("factor") => self.max_positions / self.original,
            None => return Err(scaling.error("factor", "is missing")),
        };
        // Zero counts as absent, as with Python's `or`.
        let setting = |key: &str| Ok::<_, Error>(scaling.number_or_none(key)?.filter(|value| *value != 0.0));
        let mscale = |of: f64| if factor <= 1.0 { 1.0 } else { 0.1 * of * factor.ln() + 1.0 };
        let (all, each) = (setting("mscale_all_dim")?, setting("mscale")?);
        let attention = match (scaling.number_or_none("attention_factor")?, each, all) {
            (Some(factor), ..) => factor,
            (None, Some(each), Some(all)) => mscale(each) / mscale(all),
            _ => mscale(1.0),
        };
        // The index of the pair that makes `rotations` full turns over the original positions.
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

    /// Computes LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor for each pair, with one list up to the
    /// original positions and another for longer sequences.
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

/// Returns `1 / theta^(2i / turned)`, in f32 as torch computes it.
pub(super) fn frequency(theta: f64, i: usize, turned: usize) -> f32 {
    1.0 / power(theta, i, turned)
}

fn power(theta: f64, i: usize, turned: usize) -> f32 {
    theta.powf(f64::from((2 * i) as f32 / turned as f32)) as f32
}

/// Applies Llama 3.1's scaling: long waves are slowed, short ones are kept, and those in between are blended.
fn llama3(scaling: &ConfigJson, original: f64, plain: &[f32]) -> Result<Vec<f32>> {
    let factor = scaling.number("factor")?;
    let (low, high) = (scaling.number("low_freq_factor")?, scaling.number("high_freq_factor")?);
    Ok(plain
        .iter()
        .map(|f| {
            let wave = 2.0 * PI / f64::from(*f);
            // The tests are in transformers' order, which matters if the limits are out of order.
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
