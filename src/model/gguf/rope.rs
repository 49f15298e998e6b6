//! Llama 3's rotary scaling. A GGUF file holds its effect, a divisor of each frequency (`rope_freqs.weight`), but not
//! its settings. They are recovered here, so that a merged model's `config.json` can state them.

use std::f64::consts::TAU;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::spec::DecoderSpec;
use crate::weights::gguf::GgufFile;

/// The divisors.
pub(super) const TENSOR: &str = "rope_freqs.weight";
/// `low_freq_factor` and `high_freq_factor` of every model that Meta published.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
/// The tolerance: divisors are f32 and were computed in another order. Settings within `CLOSE` are taken at once.
const TOLERANCE: f32 = 1e-4;
const CLOSE: f32 = 1e-5;
/// Shares this close to 0 or 1 are 0 or 1, computed in f32.
const EDGE: f64 = 1e-5;

/// Inserts into `config` the scaling whose divisors the file holds, if it holds any.
pub(super) fn recover(
    file: &GgufFile,
    config: &mut Map<String, Value>,
    spec: impl Fn(&Map<String, Value>) -> Result<DecoderSpec>,
) -> Result<()> {
    if file.find(TENSOR).is_none() {
        return Ok(());
    }
    let frequencies = |config: &Map<String, Value>| -> Result<Vec<f32>> {
        Ok(spec(config)?.rotations.first().map_or(Vec::new(), |rotation| rotation.frequencies.clone()))
    };
    if fit(&file.to_f32(TENSOR)?, config, frequencies)? {
        return Ok(());
    }
    Err(Error::Model(format!(
        "{}: the divisors in {TENSOR} are not those of Llama 3's rotary scaling, the only one known to use them; use the \
         model's safetensors",
        file.path().display()
    )))
}

/// Inserts into `config` a scaling that gives these divisors of its `frequencies`; `false` if there is none.
fn fit(
    divisors: &[f32],
    config: &mut Map<String, Value>,
    frequencies: impl Fn(&Map<String, Value>) -> Result<Vec<f32>>,
) -> Result<bool> {
    if divisors.iter().all(|divisor| *divisor == 1.0) {
        return Ok(true);
    }
    let plain = frequencies(config)?;
    if plain.len() != divisors.len() || !divisors.iter().all(|divisor| divisor.is_finite() && *divisor > 0.0)
    {
        return Ok(false);
    }
    let wanted: Vec<f32> = plain.iter().zip(divisors).map(|(f, divisor)| f / divisor).collect();
    let factor = divisors.iter().fold(1f32, |most, divisor| most.max(*divisor));
    let usual = originals(&plain, divisors).into_iter().map(|original| (LOW, HIGH, original));
    let line = Line::of(&plain, divisors, factor);
    let (mut nearest, mut least) = (Value::Null, f32::INFINITY);
    for (low, high, original) in usual.chain(line.iter().flat_map(Line::settings)) {
        let scaling = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                             "high_freq_factor": high, "original_max_position_embeddings": original});
        config.insert("rope_scaling".into(), scaling.clone());
        let apart = furthest(&frequencies(config)?, &wanted);
        if apart < least {
            (nearest, least) = (scaling, apart);
        }
        if least <= CLOSE {
            break;
        }
    }
    config.insert("rope_scaling".into(), nearest);
    Ok(least <= TOLERANCE)
}

/// The largest relative difference of frequencies; infinite if one is no number.
fn furthest(found: &[f32], wanted: &[f32]) -> f32 {
    let apart = found.iter().zip(wanted).map(|(found, wanted)| ((found - wanted) / wanted).abs());
    apart.fold(0.0, |most, apart| if apart.is_nan() { f32::INFINITY } else { most.max(apart) })
}

/// Candidates for the original number of positions, for the usual factors: those implied by divisors between 1 and the
/// factor, then powers of two.
fn originals(plain: &[f32], divisors: &[f32]) -> Vec<f64> {
    let factor = divisors.iter().fold(1f32, |most, divisor| most.max(*divisor));
    let implied = shares(plain, divisors, factor).into_iter().filter(|(_, s)| *s > 0.0 && *s < 1.0);
    // s = (original / wave − low) / (high − low)
    let implied = implied.map(|(f, s)| ((s * (HIGH - LOW) + LOW) * TAU / f).round());
    implied.take(4).chain((4..24).map(|power| f64::from(1u32 << power))).collect()
}

/// For each pair its plain frequency and the share s of it that is kept: 1 / divisor = (1 − s) / factor + s.
fn shares(plain: &[f32], divisors: &[f32], factor: f32) -> Vec<(f64, f64)> {
    let slowest = 1.0 / f64::from(factor);
    let share = |divisor: f32| (1.0 / f64::from(divisor) - slowest) / (1.0 - slowest);
    plain.iter().zip(divisors).map(|(f, divisor)| (f64::from(*f), share(*divisor))).collect()
}

/// The share of a frequency f that is kept, before it is limited to 0 and 1: `slope·f − offset`. Slope and offset are all
/// that divisors tell of the settings: with `offset = low / (high − low)` and `slope = original / (2π·(high − low))`, each
/// multiple of low, high and original together gives the same divisors.
struct Line {
    slope: f64,
    offset: f64,
}

impl Line {
    /// The line through the shares between 0 and 1. If there are fewer than two of them, the flattest that keeps the shares
    /// before and behind them at 1 and 0.
    fn of(plain: &[f32], divisors: &[f32], factor: f32) -> Option<Self> {
        let shares = shares(plain, divisors, factor);
        let between = |(_, s): &&(f64, f64)| *s > EDGE && *s < 1.0 - EDGE;
        let inner: Vec<(f64, f64)> = shares.iter().filter(between).copied().collect();
        // Frequencies fall from pair to pair, and so do shares.
        let kept = shares.iter().rfind(|(_, s)| *s >= 1.0 - EDGE).map(|(f, _)| (*f, 1.0));
        let slowed = shares.iter().find(|(_, s)| *s <= EDGE).map(|(f, _)| (*f, 0.0));
        let slope = |a: (f64, f64), b: (f64, f64)| (a.1 - b.1) / (a.0 - b.0);
        let (slope, (f, s)) = match (inner.first(), inner.last(), kept, slowed) {
            (Some(first), Some(last), ..) if inner.len() > 1 => (slope(*first, *last), *first),
            (Some(only), _, kept, slowed) => {
                let steepest =
                    [kept.map(|kept| slope(kept, *only)), slowed.map(|slowed| slope(*only, slowed))];
                (steepest.into_iter().flatten().fold(0.0, f64::max), *only)
            }
            (None, _, Some(kept), Some(slowed)) => (slope(kept, slowed), slowed),
            // All are slowed: the line falls to 0 at the fastest of them.
            (None, _, None, Some(slowed)) => (1.0 / slowed.0, slowed),
            _ => return None,
        };
        let line = Self { slope, offset: slope * f - s };
        (line.slope > 0.0 && line.offset > 0.0 && line.slope.is_finite()).then_some(line)
    }

    /// Candidates for `low_freq_factor`, `high_freq_factor` and the original number of positions: round numbers first, then
    /// those that are exactly on the line with a whole number of positions.
    fn settings(&self) -> Vec<(f64, f64, f64)> {
        let Self { slope, offset } = *self;
        let rounded = (1..=8u32).map(|low| {
            let span = f64::from(low) / offset;
            let high = ((f64::from(low) + span) * 1000.0).round() / 1000.0;
            (f64::from(low), high, (TAU * slope * span).round().max(1.0))
        });
        let original = (TAU * slope / offset).round().max(1.0);
        let span = original / (TAU * slope);
        rounded.chain([(offset * span, (offset + 1.0) * span, original)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::families::{self, ConfigJson};
    use super::*;

    fn frequencies(config: &Map<String, Value>) -> Result<Vec<f32>> {
        let text = Value::Object(config.clone()).to_string();
        Ok(families::spec(&ConfigJson::parse(&text, "config.json")?)?.rotations[0].frequencies.clone())
    }

    /// A model with heads of `width` features.
    fn model(width: usize, theta: f64) -> Map<String, Value> {
        let config = json!({"model_type": "llama", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": width,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": theta, "hidden_act": "silu"});
        config.as_object().unwrap().clone()
    }

    /// Factor, low, high, original.
    fn scaled(width: usize, theta: f64, [factor, low, high, original]: [f64; 4]) -> Map<String, Value> {
        let mut config = model(width, theta);
        let scaling = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": original});
        config.insert("rope_scaling".into(), scaling);
        config
    }

    fn divisors(width: usize, theta: f64, settings: [f64; 4]) -> Vec<f32> {
        let plain = frequencies(&model(width, theta)).unwrap();
        let found = frequencies(&scaled(width, theta, settings)).unwrap();
        plain.iter().zip(found).map(|(plain, found)| plain / found).collect()
    }

    #[test]
    fn settings_are_recovered_from_divisors() {
        for (width, theta, settings) in [
            (128, 5e5, [8.0, 1.0, 4.0, 8192.0]),
            (64, 1e4, [32.0, 2.5, 3.0, 700.0]),
            (128, 5e5, [8.0, 2.0, 4.0, 300.0]),
            // No pair is between, two are, all but the first few are, and all are slowed.
            (16, 1e6, [4.0, 2.0, 4.0, 300.0]),
            (16, 1e4, [2.0, 0.5, 4.5, 100.0]),
            (128, 1e4, [4.0, 1.0, 1000.0, 60000.0]),
            (8, 1e4, [8.0, 1.0, 4.0, 1.0]),
        ] {
            let mut config = model(width, theta);
            let case = format!("{width} {theta} {settings:?}");
            assert!(fit(&divisors(width, theta, settings), &mut config, frequencies).unwrap(), "{case}");
            let wanted = frequencies(&scaled(width, theta, settings)).unwrap();
            let apart = furthest(&frequencies(&config).unwrap(), &wanted);
            assert!(apart <= 2.0 * CLOSE, "{case}: {apart} with {}", config["rope_scaling"]);
        }
    }

    #[test]
    fn round_settings_are_found_as_they_were() {
        for settings in [[8.0, 1.0, 4.0, 8192.0], [8.0, 2.0, 3.5, 8191.0]] {
            let mut config = model(128, 5e5);
            assert!(fit(&divisors(128, 5e5, settings), &mut config, frequencies).unwrap());
            assert_eq!(config, scaled(128, 5e5, settings));
        }
    }

    #[test]
    fn other_divisors_are_refused() {
        let given = divisors(16, 1e4, [4.0, 1.0, 4.0, 100.0]);
        let fits = |divisors: &[f32]| fit(divisors, &mut model(16, 1e4), frequencies).unwrap();
        assert!(fits(&given));
        for (at, value) in [(0, 2.0), (6, 1.0), (7, 0.0), (7, -4.0), (2, f32::NAN), (7, f32::INFINITY)] {
            let mut bent = given.clone();
            bent[at] = value;
            assert!(!fits(&bent), "{at} {value}");
        }
        assert!(!fits(&given[..4]));
    }
}
