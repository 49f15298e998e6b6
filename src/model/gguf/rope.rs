//! Llama 3's rotary scaling. A GGUF file holds its effect, a divisor of each frequency (`rope_freqs.weight`), but not
//! its settings. They are recovered here, so that a merged model's `config.json` can state them.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::spec::DecoderSpec;
use crate::weights::gguf::GgufFile;

const TENSOR: &str = "rope_freqs.weight";
/// `low_freq_factor` and `high_freq_factor` of every existing model.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
/// The tolerance: divisors are f32 and were computed in another order.
const TOLERANCE: f32 = 1e-4;

/// Inserts into `config` the scaling whose divisors the file holds, if it holds any.
pub(super) fn recover(
    file: &GgufFile,
    config: &mut Map<String, Value>,
    spec: impl Fn(&Map<String, Value>) -> Result<DecoderSpec>,
) -> Result<()> {
    if file.find(TENSOR).is_none() {
        return Ok(());
    }
    let divisors = file.to_f32(TENSOR)?;
    if divisors.iter().all(|divisor| *divisor == 1.0) {
        return Ok(());
    }
    let frequencies = |config: &Map<String, Value>| -> Result<Vec<f32>> {
        Ok(spec(config)?.rotations.first().map_or(Vec::new(), |rotation| rotation.frequencies.clone()))
    };
    let plain = frequencies(config)?;
    let wanted: Vec<f32> = plain.iter().zip(&divisors).map(|(f, divisor)| f / divisor).collect();
    for original in originals(&plain, &divisors) {
        config.insert("rope_scaling".into(), settings(&divisors, original));
        let found = frequencies(config)?;
        let near = |(found, wanted): (&f32, &f32)| (found - wanted).abs() <= TOLERANCE * wanted.abs();
        if plain.len() == divisors.len() && found.iter().zip(&wanted).all(near) {
            return Ok(());
        }
    }
    Err(Error::Model(format!(
        "{}: the divisors in {TENSOR} are not those of Llama 3's rotary scaling, the only one known to use them; use the \
         model's safetensors",
        file.path().display()
    )))
}

fn settings(divisors: &[f32], original: f64) -> Value {
    let factor = divisors.iter().fold(1f32, |most, divisor| most.max(*divisor));
    json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
           "original_max_position_embeddings": original})
}

/// Candidates for the original number of positions: those implied by divisors between 1 and the factor, then powers of
/// two.
fn originals(plain: &[f32], divisors: &[f32]) -> Vec<f64> {
    let factor = f64::from(divisors.iter().fold(1f32, |most, divisor| most.max(*divisor)));
    let implied = plain.iter().zip(divisors).map(|(f, divisor)| (f64::from(*f), f64::from(*divisor)));
    let implied = implied.filter(|(_, divisor)| *divisor > 1.0 && *divisor < factor).map(|(f, divisor)| {
        // 1 / divisor = (1 − s) / factor + s, and s = (original / wave − low) / (high − low)
        let s = (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor);
        ((s * (HIGH - LOW) + LOW) * 2.0 * std::f64::consts::PI / f).round()
    });
    implied.take(4).chain((4..24).map(|power| f64::from(1u32 << power))).collect()
}
