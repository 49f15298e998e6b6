//! The settings that only Gemma's models have. Constants are those of llama.cpp's `src/models/gemma*.cpp`.

use serde_json::{Value, json};

use super::keys::Keys;
use super::sizes::Sizes;
use crate::error::Result;
use crate::weights::gguf::Value as Stored;

const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";
const LOCAL_BASE: &str = "rope.freq_base_swa";

/// Adds the settings specific to the Gemma models.
pub(super) fn read(keys: &Keys, config: &mut Value, sizes: &Sizes) -> Result<()> {
    config["hidden_activation"] = config["hidden_act"].clone();
    // llama.cpp recognises the 27B models by their number of layers: only they scale by hidden / heads.
    let (largest, period) = match keys.architecture {
        "gemma2" => (46, 2),
        "gemma3" => (62, 6),
        _ => return Ok(()),
    };
    let each = sizes.hidden.checked_div(sizes.heads).filter(|_| sizes.layers == largest);
    config["query_pre_attn_scalar"] = each.unwrap_or(sizes.head_dim).into();
    let window = if keys.architecture == "gemma2" {
        gemma2(keys, config)?
    } else {
        config["final_logit_softcapping"] = json!(soft_cap(keys, "final_logit_softcapping")?);
        config["rope_local_base_freq"] = json!(keys.number_or_none(LOCAL_BASE)?.unwrap_or(10_000.0));
        // llama.cpp does not read it for this architecture.
        keys.number_or_none("attn_logit_softcapping")?;
        keys.size_or_none(WINDOW)?.filter(|window| *window > 0)
    };
    config["sliding_window"] = window.into();
    let slides = pattern(keys, sizes.layers, period)?;
    let name = |slides: bool| if slides && window.is_some() { "sliding_attention" } else { "full_attention" };
    config["layer_types"] = slides.into_iter().map(name).collect();
    Ok(())
}

/// Adds Gemma 2's soft-caps and returns its window.
fn gemma2(keys: &Keys, config: &mut Value) -> Result<Option<u64>> {
    for (name, usual) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
        config[name] = json!(soft_cap(keys, name)?.unwrap_or(usual));
    }
    let base = config["rope_theta"].as_f64();
    if keys.number_or_none(LOCAL_BASE)?.is_some_and(|local| Some(local) != base) {
        return Err(keys.unsupported(LOCAL_BASE, "layers with a window must rotate as the others do"));
    }
    match keys.size_or_none(WINDOW)? {
        Some(0) => Err(keys.unsupported(WINDOW, "is 0, with which no token sees another")),
        window => Ok(Some(window.unwrap_or(4096))),
    }
}

/// A soft-cap. With 0, llama.cpp computes none for Gemma 3, but divides by it for Gemma 2.
fn soft_cap(keys: &Keys, name: &'static str) -> Result<Option<f64>> {
    match keys.number_or_none(name)? {
        Some(cap) if cap == 0.0 && keys.architecture == "gemma3" => Ok(None),
        Some(cap) if cap <= 0.0 => {
            let why = format!("is {cap}, but logits are divided by it; it must be above 0");
            Err(keys.unsupported(name, &why))
        }
        cap => Ok(cap),
    }
}

/// Which layers have a window: a list of them, or all but the last of each period.
fn pattern(keys: &Keys, layers: u64, usual: u64) -> Result<Vec<bool>> {
    let period = match keys.get(PATTERN) {
        None => Some(usual),
        Some(Stored::Integer(period)) => u64::try_from(period).ok(),
        Some(Stored::Array(list)) if list.len() as u64 == layers => {
            let each = list.iter().map(|slides| match slides {
                Stored::Flag(slides) => Some(slides),
                Stored::Integer(slides) => Some(slides != 0),
                _ => None,
            });
            if let Some(each) = each.collect() {
                return Ok(each);
            }
            None
        }
        Some(_) => None,
    };
    let period = period.ok_or_else(|| {
        let why = format!("must be a whole number, or a list of {layers} flags, one for each layer");
        keys.unsupported(PATTERN, &why)
    })?;
    Ok((0..layers).map(|layer| period == 0 || layer % period < period - 1).collect())
}
