//! What a base computes with its tensors: the settings of `config.json`, or of a GGUF file's metadata, that change a result.
//!
//! The fingerprint of a base is of its tensors alone. Caches of what a base computes have [`exact`] in their keys as well, and an
//! adapter notes an [`Architecture`], by which a setting that was changed since is named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::spec::{
    AttentionSpec, ByLength, DecoderSpec, Growth, LayerSpec, MlpSpec, NormKind, NormSpec, QkvSpec,
    RotationSpec,
};
use crate::ops::gated_act::Activation;
use crate::ops::rope::Pairing;
use crate::ops::token_logps::LogitShape;
use crate::ops::tree_attention::Heads;

/// Metadata key of the architecture of the base that an adapter was trained on.
pub const ARCHITECTURE_KEY: &str = "dpo_lora.base_architecture";

/// Rises whenever a family, or an operation that families share, computes something else from the same spec and the same
/// tensors than before, by more than rounding: then no cache of an earlier version is used.
const ARITHMETIC: u32 = 1;

/// Describes all that the forward pass depends on beside the tensors and the kernels. Specs that compute the same, from
/// whatever files, have the same description.
pub fn exact(spec: &DecoderSpec) -> String {
    // These say what a file is called and what it may hold. A new field counts until it is listed here.
    let computed = DecoderSpec {
        model_type: String::new(),
        max_positions: 0,
        tie_is_stated: false,
        layouts: Vec::new(),
        elsewhere: &[],
        ignored: Vec::new(),
        ..spec.clone()
    };
    format!("{ARITHMETIC} {computed:?}")
}

/// The settings that a base computes with, by name. A setting of every layer is one value if it is the same in all of them,
/// else a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Architecture {
    /// Settings that do not depend on the format of the file.
    numbers: BTreeMap<String, Value>,
    /// How the tensors are connected. Another format may store them in another way, so that the settings differ and the
    /// result does not.
    form: BTreeMap<String, Value>,
}

/// Which settings of two bases are compared, and how closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// All of them, of the very same tensors.
    Exactly,
    /// The numbers, of the same weights in another type or format, which may round settings or recover them.
    Roughly,
}

impl Compared {
    /// The relative difference of two numbers that count as equal.
    fn rounding(self) -> f64 {
        match self {
            Self::Exactly => 1e-6,
            Self::Roughly => 1e-3,
        }
    }
}

/// Settings with their names.
type Fields = Vec<(&'static str, Value)>;

impl Architecture {
    /// The settings of a base.
    pub fn of(spec: &DecoderSpec) -> Self {
        // Every field is named here and below, so that a new one is either added or left out on purpose: what the shapes of
        // tensors decide, and what only names them.
        let DecoderSpec {
            model_type: _,
            vocab_size: _,
            hidden: _,
            max_positions: _,
            embedding: _,
            embedding_scale,
            positions,
            rotations,
            layers,
            final_norm,
            head,
            logits: LogitShape { scale, softcap },
            head_module: _,
            tie_is_stated: _,
            layouts: _,
            elsewhere: _,
            ignored: _,
        } = spec;
        let whole_numbers = vec![
            ("embedding_scale", number(*embedding_scale)),
            ("final_norm_eps", json!(final_norm.eps)),
            ("logits_scale", number(*scale)),
            ("logits_softcap", optional(*softcap)),
        ];
        let whole_form = vec![
            ("final_norm", kind(final_norm).into()),
            ("head_shares_embedding", head.is_none().into()),
            ("positions_offset", json!(positions.as_ref().map(|positions| positions.offset))),
        ];
        let (turned_numbers, turned_form): (Vec<Fields>, Vec<Fields>) =
            rotations.iter().map(rotation).unzip();
        let (layer_numbers, layer_form): (Vec<Fields>, Vec<Fields>) = layers.iter().map(layer).unzip();
        let together = |whole: Fields, turned: Vec<Fields>, layers: Vec<Fields>| {
            let mut all = columns(vec![whole]);
            all.extend(columns(turned));
            all.extend(columns(layers));
            all
        };
        Self {
            numbers: together(whole_numbers, turned_numbers, layer_numbers),
            form: together(whole_form, turned_form, layer_form),
        }
    }

    /// As text of one line, for an adapter's metadata.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`Architecture::to_text`] wrote; `None` if it is damaged.
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The settings that both know and that differ, each as `norm_eps was 1e-5, is 0.1`.
    pub fn differences(&self, now: &Self, compared: Compared) -> Vec<String> {
        let mut parts = vec![(&self.numbers, &now.numbers)];
        parts.extend((compared == Compared::Exactly).then_some((&self.form, &now.form)));
        let mut found = Vec::new();
        for (was, is) in parts {
            let shared = was.iter().filter_map(|(name, was)| Some((name, was, is.get(name)?)));
            found.extend(shared.filter_map(|(name, was, is)| differing(name, was, is, compared)));
        }
        found
    }
}

/// The first difference of two values.
fn differing(name: &str, was: &Value, is: &Value, compared: Compared) -> Option<String> {
    let at = |i: usize| format!("{name}[{i}]");
    match (was, is) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(i, (a, b))| differing(&at(i), a, b, compared))
        }
        (Value::Array(a), Value::Array(b)) => Some(format!("{name} had {} values, has {}", a.len(), b.len())),
        // One value of all layers.
        (Value::Array(a), b) => a.iter().enumerate().find_map(|(i, a)| differing(&at(i), a, b, compared)),
        (a, Value::Array(b)) => b.iter().enumerate().find_map(|(i, b)| differing(&at(i), a, b, compared)),
        (a, b) => {
            let same = match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() <= compared.rounding() * a.abs().max(b.abs()),
                _ => a == b,
            };
            (!same).then(|| format!("{name} was {a}, is {b}"))
        }
    }
}

/// The numbers and the form of a layer.
fn layer(layer: &LayerSpec) -> (Fields, Fields) {
    let LayerSpec {
        attention_norm,
        attention,
        post_attention_norm,
        mlp_norm,
        mlp,
        post_mlp_norm,
        parallel,
        residual_scale,
    } = layer;
    let AttentionSpec {
        qkv,
        clip,
        qk_norm,
        norm_after_rotation,
        heads,
        rotation,
        query_rotation,
        cached_wide: _,
        output: _,
    } = attention;
    let Heads { n_head, n_kv_head, head_dim, scale, softcap, window } = *heads;
    let around = [attention_norm, post_attention_norm, mlp_norm, post_mlp_norm].into_iter().flatten();
    let norms: Vec<&NormSpec> = around.chain(qk_norm.iter().flat_map(|(q, k)| [q, k])).collect();
    let kinds: Vec<&str> = norms.iter().map(|norm| kind(norm)).collect();
    let (qkv, (mlp, act)) = projections(qkv, mlp);
    let numbers = vec![
        ("norm_eps", collapsed(norms.iter().map(|norm| json!(norm.eps)).collect())),
        ("attention_scale", number(scale)),
        ("attention_softcap", optional(softcap)),
        ("sliding_window", json!(window)),
        ("clip_qkv", optional(*clip)),
        ("residual_scale", number(*residual_scale)),
    ];
    let form = vec![
        ("hidden_act", act.name().into()),
        ("norms", kinds.join(" ").into()),
        ("parallel", (*parallel).into()),
        ("norm_after_rotation", (*norm_after_rotation).into()),
        ("rotation", json!(rotation)),
        ("query_rotation", json!(query_rotation)),
        ("num_attention_heads", json!(n_head)),
        ("num_key_value_heads", json!(n_kv_head)),
        ("head_dim", json!(head_dim)),
        ("qkv", qkv.into()),
        ("mlp", mlp.into()),
    ];
    (numbers, form)
}

/// How queries, keys and values are projected, how the MLP is, and its nonlinearity.
fn projections<'a>(qkv: &QkvSpec, mlp: &'a MlpSpec) -> (&'static str, (&'static str, &'a Activation)) {
    let qkv = match qkv {
        QkvSpec::Separate(_) => "separate",
        QkvSpec::Stacked(_) => "stacked",
        QkvSpec::PerHead(_) => "per head",
    };
    let mlp = match mlp {
        MlpSpec::Gated { act, .. } => ("gated", act),
        MlpSpec::FusedGated { act, .. } => ("fused gated", act),
        MlpSpec::Plain { act, .. } => ("plain", act),
    };
    (qkv, mlp)
}

/// The numbers and the form of a rotary embedding.
fn rotation(rotation: &RotationSpec) -> (Fields, Fields) {
    let RotationSpec { frequencies, scale, pairing, by_length, growth } = rotation;
    let list = |frequencies: &[f32]| Value::Array(frequencies.iter().map(|x| number(*x)).collect());
    let by_length = by_length.as_ref().map(|by_length| match by_length {
        ByLength::Long { beyond, frequencies } => json!([beyond, list(frequencies)]),
        ByLength::Dynamic { theta, factor, max } => json!([theta, factor, max]),
    });
    let growth = growth.as_ref().map(|Growth { beta, original }| json!([beta, original]));
    let numbers = vec![
        ("rope_frequencies", list(frequencies)),
        ("rope_scale", number(*scale)),
        ("rope_by_length", json!(by_length)),
        ("rope_growth", json!(growth)),
    ];
    let pairing = match pairing {
        Pairing::Halves => "halves",
        Pairing::Interleaved => "interleaved",
    };
    (numbers, vec![("rope_pairing", pairing.into())])
}

/// The name of a norm's kind. Adapters note it, so it stays when the code's own name changes.
fn kind(norm: &NormSpec) -> &'static str {
    match norm.kind {
        NormKind::Rms => "rms",
        NormKind::RmsPlusOne => "rms plus one",
        NormKind::Layer => "layer",
        NormKind::LayerWithoutBias => "layer without bias",
        NormKind::LayerPlusOne => "layer plus one",
        NormKind::LayerPlain => "layer without weights",
    }
}

/// The values of each name over all rows.
fn columns(rows: Vec<Fields>) -> BTreeMap<String, Value> {
    let mut columns: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, value) in rows.into_iter().flatten() {
        columns.entry(name).or_default().push(value);
    }
    columns.into_iter().map(|(name, values)| (name.to_string(), collapsed(values))).collect()
}

/// One value in place of equal ones.
fn collapsed(mut values: Vec<Value>) -> Value {
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        return values.pop().unwrap_or_default();
    }
    Value::Array(values)
}

/// A number with as few digits as distinguish it in f32.
fn number(x: f32) -> Value {
    json!(x.to_string().parse::<f64>().unwrap_or_else(|_| f64::from(x)))
}

fn optional(x: Option<f32>) -> Value {
    x.map_or(Value::Null, number)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::families::{self, ConfigJson};

    /// The spec of a fixture whose `config.json` is changed.
    fn spec(model: &str, change: &dyn Fn(&mut Value)) -> DecoderSpec {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let text = std::fs::read_to_string(models.join(model).join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        change(&mut config);
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        families::spec(&ConfigJson::open(place.path()).unwrap()).unwrap()
    }

    #[test]
    fn every_setting_that_changes_the_result_is_told_by_name() {
        let plain = spec("llama", &|_| {});
        let was = Architecture::of(&plain);
        for (key, value, told) in [
            ("rope_theta", json!(100.0), &["rope_frequencies[1] was "][..]),
            (
                "rms_norm_eps",
                json!(0.1),
                &["final_norm_eps was 0.00001, is 0.1", "norm_eps was 0.00001, is 0.1"],
            ),
            ("hidden_act", json!("relu"), &["hidden_act was \"silu\", is \"relu\""]),
        ] {
            let other = spec("llama", &|config| config[key] = value.clone());
            assert_ne!(exact(&other), exact(&plain), "{key}");
            let found = was.differences(&Architecture::of(&other), Compared::Exactly);
            assert_eq!(found.len(), told.len(), "{found:?}");
            assert!(found.iter().zip(told).all(|(found, told)| found.starts_with(told)), "{found:?}");
        }
        for (key, value) in [("max_position_embeddings", json!(999)), ("torch_dtype", json!("float16"))] {
            let same = spec("llama", &|config| config[key] = value.clone());
            assert_eq!(exact(&same), exact(&plain), "{key}");
            assert_eq!(was.differences(&Architecture::of(&same), Compared::Exactly), [""; 0], "{key}");
        }
    }

    #[test]
    fn what_a_spec_has_of_its_own_counts_too() {
        let plain = spec("gemma2", &|_| {});
        let was = Architecture::of(&plain);
        type Change<'a> = (&'a str, &'a dyn Fn(&mut DecoderSpec));
        let changes: [Change; 8] = [
            ("logits_softcap", &|spec| spec.logits.softcap = Some(7.0)),
            ("logits_scale", &|spec| spec.logits.scale *= 2.0),
            ("embedding_scale", &|spec| spec.embedding_scale *= 2.0),
            ("attention_softcap", &|spec| spec.layers[0].attention.heads.softcap = None),
            ("attention_scale", &|spec| spec.layers[0].attention.heads.scale *= 2.0),
            ("sliding_window[0]", &|spec| spec.layers[0].attention.heads.window = Some(3)),
            ("rope_scale", &|spec| spec.rotations[0].scale *= 2.0),
            ("hidden_act", &|spec| {
                for layer in &mut spec.layers {
                    if let MlpSpec::Gated { act, .. } = &mut layer.mlp {
                        *act = Activation::Relu;
                    }
                }
            }),
        ];
        for (name, change) in changes {
            let mut other = plain.clone();
            change(&mut other);
            let found = was.differences(&Architecture::of(&other), Compared::Exactly);
            assert!(found.len() == 1 && found[0].starts_with(name), "{name}: {found:?}");
            assert_ne!(exact(&other), exact(&plain), "{name}");
        }
    }

    #[test]
    fn it_is_read_back_and_rounding_and_unknown_settings_are_no_difference() {
        let was = Architecture::of(&spec("gemma2", &|_| {}));
        assert_eq!(Architecture::from_text(&was.to_text()), Some(was.clone()));
        assert!(!was.to_text().contains('\n'));
        assert_eq!(Architecture::from_text("{"), None);
        let of = |numbers: Value, form: Value| -> Architecture {
            serde_json::from_value(json!({"numbers": numbers, "form": form})).unwrap()
        };
        let whole = of(json!({"norm_eps": 1e-5, "new": 1}), json!({"qkv": "separate"}));
        let stored = of(json!({"norm_eps": 9.999_999_747_378_752e-6}), json!({"qkv": "stacked"}));
        assert_eq!(whole.differences(&stored, Compared::Roughly), [""; 0]);
        assert_eq!(whole.differences(&stored, Compared::Exactly), ["qkv was \"separate\", is \"stacked\""]);
        let other = of(json!({"norm_eps": [1e-5, 1e-6]}), json!({}));
        assert_eq!(whole.differences(&other, Compared::Roughly), ["norm_eps[1] was 0.00001, is 1e-6"]);
    }
}
