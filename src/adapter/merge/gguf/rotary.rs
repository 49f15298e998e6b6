//! Rotary embeddings in llama.cpp's terms. The angles that llama.cpp would compute from the keys are computed here in
//! the same way and compared with the model's. If they differ, nothing is written.

use serde_json::{Map, Value as Json};

use super::keys::{Keys, untold};
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LayerSpec, RotationSpec};

/// The relative tolerance of frequencies and factors that are computed in different ways, in f32 and f64.
const TOLERANCE: f64 = 1e-4;
/// The defaults of `llama_hparams`. Only architectures that are not written here read other values
/// (`LLM_KV_ROPE_SCALING_YARN_BETA_FAST` in `src/models/grok.cpp` and `mistral3.cpp`).
const BETA_FAST: f64 = 32.0;
const BETA_SLOW: f64 = 1.0;

/// How rotary embeddings are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Default,
    Linear,
    Llama3,
    Yarn,
}

/// The rotary settings of a `config.json`, under their old or new names.
pub(super) struct Rope {
    theta: f64,
    /// The setting of layers with a window, if they have their own.
    local_theta: Option<f64>,
    kind: Kind,
    factor: f64,
    /// The number of positions on which the model was trained, before yarn.
    original: Option<f64>,
    /// The factor of cosine and sine apart from yarn's own, `1 + 0.1 ln(factor)`, which llama.cpp applies itself.
    attention: f64,
    settings: Map<String, Json>,
}

impl Rope {
    /// Reads the settings of `config` for which llama.cpp has keys.
    ///
    /// # Errors
    /// Fails if a number is missing, or if no keys of llama.cpp give the same rotations; the error names the key of
    /// `config.json` that GGUF has no key for.
    pub fn read(config: &Json, spec: &DecoderSpec) -> Result<Self> {
        let object = |value: &Json| value.as_object().cloned().filter(|map| !map.is_empty());
        let (old, new) = (object(&config["rope_scaling"]), object(&config["rope_parameters"]));
        let part = |kind: &str| new.as_ref().and_then(|new| new.get(kind)).and_then(object);
        let mut settings = part("full_attention").unwrap_or_default();
        // The old name takes precedence if both exist, as in transformers.
        settings.extend(old.or_else(|| new.clone().filter(|_| settings.is_empty())).unwrap_or_default());
        let number = |map: &Map<String, Json>, key: &str| map.get(key).and_then(Json::as_f64);
        let gemma = spec.model_type == "gemma3_text";
        let theta = number(&settings, "rope_theta").or(config["rope_theta"].as_f64());
        let local = part("sliding_attention").and_then(|local| number(&local, "rope_theta"));
        let local = local.or(config["rope_local_base_freq"].as_f64()).or(gemma.then_some(1e4));
        let name = settings.get("rope_type").or(settings.get("type")).and_then(Json::as_str);
        let kind = match name.unwrap_or("default") {
            "default" => Kind::Default,
            "linear" => Kind::Linear,
            "llama3" => Kind::Llama3,
            "yarn" => Kind::Yarn,
            other => return Err(Error::Adapter(untold(&format!("rope_scaling.rope_type {other:?}")))),
        };
        let factor = number(&settings, "factor");
        if matches!(kind, Kind::Linear | Kind::Yarn) && factor.is_none() {
            let name = name.unwrap_or_default();
            return Err(Error::Model(format!("config.json: {name} rope scaling has no factor")));
        }
        let mut rope = Self {
            theta: theta.unwrap_or(if gemma { 1e6 } else { 1e4 }),
            local_theta: local,
            kind,
            factor: factor.unwrap_or(1.0),
            original: number(&settings, "original_max_position_embeddings"),
            attention: 1.0,
            settings,
        };
        if let Some(global) =
            spec.layers.iter().find(|layer| !rope.is_local(layer)).and_then(|l| rotation(spec, l))
        {
            rope.attention = f64::from(global.scale) / rope.own_scale();
        }
        rope.hold_to(spec)?;
        Ok(rope)
    }

    fn is_local(&self, layer: &LayerSpec) -> bool {
        self.local_theta.is_some() && layer.attention.heads.window.is_some()
    }

    /// Returns yarn's factor of cosine and sine, which llama.cpp derives itself (`get_mscale` of
    /// `src/llama-context.cpp`).
    fn own_scale(&self) -> f64 {
        if self.kind == Kind::Yarn && self.factor > 1.0 { 1.0 + 0.1 * self.factor.ln() } else { 1.0 }
    }

    /// Returns the angle per position that llama.cpp computes for pair `i` of `pairs`, in radians.
    fn frequency(&self, i: usize, pairs: usize, positions: usize) -> f64 {
        let width = 2.0 * pairs as f64;
        let plain = self.theta.powf(-2.0 * i as f64 / width);
        match self.kind {
            // Llama 3's divisors are a tensor made from these frequencies.
            Kind::Default | Kind::Llama3 => plain,
            Kind::Linear => plain / self.factor,
            Kind::Yarn => {
                // `ggml_rope_yarn_corr_dims`, `rope_yarn_ramp`
                let original = self.original.unwrap_or(positions as f64);
                let pair = |turns: f64| {
                    width * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
                };
                let low = pair(BETA_FAST).floor().max(0.0);
                let high = pair(BETA_SLOW).ceil().min(width - 1.0);
                let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                plain / self.factor * (1.0 - ramp) + plain * ramp
            }
        }
    }

    /// Compares the frequencies with the model's.
    fn hold_to(&self, spec: &DecoderSpec) -> Result<()> {
        let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * b.abs();
        let mut problems = Problems::default();
        for layer in &spec.layers {
            let Some(model) = rotation(spec, layer) else { continue };
            let pairs = model.frequencies.len();
            if 2 * pairs != layer.attention.heads.head_dim {
                problems.add(untold("partly rotated heads (partial_rotary_factor)"));
                break;
            }
            let local = self.local_theta.filter(|_| self.is_local(layer));
            let frequency = |i: usize| match local {
                Some(theta) => theta.powf(-(i as f64) / pairs as f64),
                None => self.frequency(i, pairs, spec.max_positions),
            };
            let wanted = model.frequencies.iter().enumerate();
            let same = self.kind == Kind::Llama3 && local.is_none()
                || wanted.into_iter().all(|(i, wanted)| near(frequency(i), f64::from(*wanted)));
            // llama.cpp has one attention factor for all layers. Layers with a window have unscaled frequencies, and
            // yarn's own factor does not apply to them.
            let scale = if local.is_some() { self.attention } else { self.attention * self.own_scale() };
            if !same {
                problems.add(untold(&self.setting()));
            } else if !near(scale, f64::from(model.scale)) {
                problems.add(untold("rope_scaling.attention_factor, of the layers without a window alone,"));
            } else {
                continue;
            }
            break;
        }
        problems.finish().map_err(|e| Error::Adapter(e.to_string()))
    }

    /// Returns the setting for which llama.cpp has no key.
    fn setting(&self) -> String {
        let other = |key: &str, known: f64| {
            let value = self.settings.get(key).and_then(Json::as_f64).filter(|value| *value != known)?;
            Some(format!("rope_scaling.{key} {value} (it computes with {known})"))
        };
        let found = match self.kind {
            Kind::Yarn if self.settings.get("truncate") == Some(&Json::Bool(false)) => {
                Some("rope_scaling.truncate false (it always rounds to whole pairs)".into())
            }
            Kind::Yarn => other("beta_fast", BETA_FAST).or_else(|| other("beta_slow", BETA_SLOW)),
            _ => None,
        };
        found.unwrap_or_else(|| "the rotary settings (rope_parameters, rope_scaling, rope_theta)".into())
    }

    pub(super) fn put(&self, keys: &mut Keys) {
        keys.float("rope.freq_base", self.theta);
        if let Some(theta) = self.local_theta {
            keys.float("rope.freq_base_swa", theta);
        }
        let kind = match self.kind {
            Kind::Linear => "linear",
            Kind::Yarn => "yarn",
            _ => return,
        };
        keys.text("rope.scaling.type", kind);
        keys.float("rope.scaling.factor", self.factor);
        if self.kind == Kind::Linear {
            return;
        }
        if (self.attention - 1.0).abs() > f64::from(f32::EPSILON) {
            keys.float("rope.scaling.attn_factor", self.attention);
        }
        for setting in ["beta_fast", "beta_slow"] {
            if let Some(number) = self.settings.get(setting).and_then(Json::as_f64) {
                keys.float(&format!("rope.scaling.yarn_{setting}"), number);
            }
        }
        if let Some(original) = self.original {
            keys.number("rope.scaling.original_context_length", original as usize);
        }
    }

    /// Returns Llama 3's scaling as divisors of the plain frequencies, which llama.cpp reads from a tensor.
    pub(super) fn factors(&self, rotations: &[RotationSpec]) -> Option<Vec<f32>> {
        let frequencies = &rotations.first().filter(|_| self.kind == Kind::Llama3)?.frequencies;
        let plain = |i: usize| self.theta.powf(-(i as f64) / frequencies.len() as f64);
        Some(frequencies.iter().enumerate().map(|(i, f)| (plain(i) / f64::from(*f)) as f32).collect())
    }

    pub(super) fn is_llama3(&self) -> bool {
        self.kind == Kind::Llama3
    }
}

fn rotation<'a>(spec: &'a DecoderSpec, layer: &LayerSpec) -> Option<&'a RotationSpec> {
    layer.attention.rotation.and_then(|at| spec.rotations.get(at))
}
