//! The metadata of a merged GGUF model.

use serde_json::{Map, Value as Json};

use super::super::super::gguf::{Architecture, GgufType};
use super::super::super::gguf_writer::Value;
use super::super::Base;
use super::tokenizer;
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LayerSpec, MlpSpec, RotationSpec};

/// Gemma 3's layers, one of which sees everything (`set_swa_pattern(6)` in llama.cpp).
const GEMMA3_PERIOD: usize = 6;

/// All keys, in the converter's order.
///
/// # Errors
/// If llama.cpp would compute something else, or the tokenizer cannot be told.
pub(super) fn of(
    base: &Base,
    architecture: &Architecture,
    config: &Json,
    kind: GgufType,
) -> Result<Vec<(String, Value)>> {
    let rope = Rope::read(config)?;
    let gemma = architecture.name == "gemma3";
    check(base.spec, &rope, gemma)?;
    let mut keys = Keys { architecture: architecture.name, keys: Vec::new() };
    keys.put("general.architecture", Value::Text(architecture.name.into()));
    keys.put("general.type", Value::Text("model".into()));
    keys.put("general.file_type", Value::U32(file_type(kind)));
    keys.put("general.quantization_version", Value::U32(2));
    let spec = base.spec;
    let Some(first) = spec.layers.first() else { return Err(Error::Model("the base has no layers".into())) };
    let heads = first.attention.heads;
    keys.number("block_count", spec.layers.len());
    keys.number("context_length", spec.max_positions);
    keys.number("embedding_length", spec.hidden);
    keys.number("feed_forward_length", intermediate(first));
    keys.number("attention.head_count", heads.n_head);
    keys.number("attention.head_count_kv", heads.n_kv_head);
    keys.number("attention.key_length", heads.head_dim);
    keys.number("attention.value_length", heads.head_dim);
    keys.number("vocab_size", spec.vocab_size);
    keys.number("rope.dimension_count", heads.head_dim);
    keys.float("attention.layer_norm_rms_epsilon", spec.final_norm.eps);
    rope.put(&mut keys);
    if let Some(window) = spec.layers.iter().find_map(|layer| layer.attention.heads.window) {
        keys.number("attention.sliding_window", window);
    }
    keys.keys.extend(tokenizer::of(base.directory, spec.vocab_size, config)?);
    Ok(keys.keys)
}

/// `LlamaFileType` of gguf-py: what most tensors are.
fn file_type(kind: GgufType) -> u32 {
    match kind {
        GgufType::F32 => 0,
        GgufType::F16 => 1,
        GgufType::Q8_0 => 7,
        GgufType::BF16 => 32,
    }
}

fn intermediate(layer: &LayerSpec) -> usize {
    match &layer.mlp {
        MlpSpec::Gated { down, .. } | MlpSpec::FusedGated { down, .. } | MlpSpec::Plain { down, .. } => {
            down.inputs
        }
    }
}

/// What llama.cpp takes for granted of these families; every difference is named.
fn check(spec: &DecoderSpec, rope: &Rope, gemma: bool) -> Result<()> {
    let mut problems = Problems::default();
    let mut require = |holds: bool, what: &str| {
        problems.require(holds, || {
            format!("llama.cpp cannot be told of {what} of this model; merge into safetensors and serve that")
        });
    };
    require(spec.logits.softcap.is_none() && spec.logits.scale == 1.0, "the logits' soft-cap or scale");
    let scale = if gemma { (spec.hidden as f32).sqrt() } else { 1.0 };
    require((spec.embedding_scale / scale - 1.0).abs() < 0.01, "the embedding's scale");
    require(
        spec.layers.iter().all(|layer| layer.residual_scale == 1.0 && !layer.parallel),
        "the residual sums",
    );
    let heads = |layer: &LayerSpec| layer.attention.heads;
    require(
        spec.layers
            .iter()
            .map(heads)
            .all(|h| h.softcap.is_none() && (h.scale * (h.head_dim as f32).sqrt() - 1.0).abs() < 1e-4),
        "attention's scale or soft-cap",
    );
    require(spec.layers.iter().all(|layer| layer.attention.rotation.is_some()), "layers without positions");
    let windows: Vec<Option<usize>> = spec.layers.iter().map(|layer| heads(layer).window).collect();
    if gemma {
        let slides = |i: usize| !(i + 1).is_multiple_of(GEMMA3_PERIOD);
        require(
            windows.iter().enumerate().all(|(i, window)| window.is_some() == slides(i)),
            "which layers slide",
        );
    } else {
        require(windows.iter().all(Option::is_none), "a sliding window");
    }
    require(rope.kind != Kind::Other, "this rope scaling");
    let llama = spec.model_type == "llama";
    require(rope.kind != Kind::Llama3 || llama, "llama3 rope scaling");
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))
}

/// Keys as they come.
struct Keys {
    architecture: &'static str,
    keys: Vec<(String, Value)>,
}

impl Keys {
    fn put(&mut self, key: &str, value: Value) {
        self.keys.push((key.into(), value));
    }

    fn number(&mut self, key: &str, number: usize) {
        let key = format!("{}.{key}", self.architecture);
        self.put(&key, Value::U32(u32::try_from(number).unwrap_or(u32::MAX)));
    }

    fn float(&mut self, key: &str, number: f64) {
        let key = format!("{}.{key}", self.architecture);
        self.put(&key, Value::F32(number as f32));
    }
}

/// How rotary embeddings are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Default,
    Linear,
    Llama3,
    Yarn,
    Other,
}

/// The rotary settings of a `config.json`, old names or new.
pub(super) struct Rope {
    theta: f64,
    local_theta: Option<f64>,
    kind: Kind,
    settings: Map<String, Json>,
}

impl Rope {
    /// # Errors
    /// If a number is missing.
    pub fn read(config: &Json) -> Result<Self> {
        let object = |value: &Json| value.as_object().cloned().filter(|map| !map.is_empty());
        let new = object(&config["rope_parameters"]);
        let part = |kind: &str| new.as_ref().and_then(|new| new.get(kind)).and_then(object);
        let settings = part("full_attention")
            .or(new.clone())
            .or_else(|| object(&config["rope_scaling"]))
            .unwrap_or_default();
        let number = |map: &Map<String, Json>, key: &str| map.get(key).and_then(Json::as_f64);
        let theta = number(&settings, "rope_theta").or(config["rope_theta"].as_f64()).unwrap_or(10_000.0);
        let local_theta = part("sliding_attention")
            .and_then(|local| number(&local, "rope_theta"))
            .or(config["rope_local_base_freq"].as_f64());
        let name =
            settings.get("rope_type").or(settings.get("type")).and_then(Json::as_str).unwrap_or("default");
        let kind = match name {
            "default" => Kind::Default,
            "linear" => Kind::Linear,
            "llama3" => Kind::Llama3,
            "yarn" => Kind::Yarn,
            _ => Kind::Other,
        };
        if matches!(kind, Kind::Linear | Kind::Yarn) && number(&settings, "factor").is_none() {
            return Err(Error::Model(format!("config.json: {name} rope scaling has no factor")));
        }
        Ok(Self { theta, local_theta, kind, settings })
    }

    fn put(&self, keys: &mut Keys) {
        keys.float("rope.freq_base", self.theta);
        if let Some(theta) = self.local_theta {
            keys.float("rope.freq_base_swa", theta);
        }
        let kind = match self.kind {
            Kind::Linear => "linear",
            Kind::Yarn => "yarn",
            _ => return,
        };
        let key = format!("{}.rope.scaling.type", keys.architecture);
        keys.put(&key, Value::Text(kind.into()));
        for (setting, key) in [
            ("factor", "rope.scaling.factor"),
            ("attention_factor", "rope.scaling.attn_factor"),
            ("beta_fast", "rope.scaling.yarn_beta_fast"),
            ("beta_slow", "rope.scaling.yarn_beta_slow"),
        ] {
            if let Some(number) = self.settings.get(setting).and_then(Json::as_f64) {
                keys.float(key, number);
            }
        }
        let original = self.settings.get("original_max_position_embeddings").and_then(Json::as_u64);
        if let Some(original) = original.and_then(|n| usize::try_from(n).ok()) {
            keys.number("rope.scaling.original_context_length", original);
        }
    }

    /// Llama 3's scaling as divisors of the plain frequencies, which llama.cpp reads from a tensor.
    pub fn factors(&self, rotations: &[RotationSpec]) -> Option<Vec<f32>> {
        let frequencies = &rotations.first().filter(|_| self.kind == Kind::Llama3)?.frequencies;
        let plain = |i: usize| self.theta.powf(-(i as f64) / frequencies.len() as f64);
        Some(frequencies.iter().enumerate().map(|(i, f)| (plain(i) / f64::from(*f)) as f32).collect())
    }
}
