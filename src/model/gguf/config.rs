//! Converts metadata to `config.json`. This inverts llama.cpp's converters (`conversion/*.py`), and fills in missing
//! metadata as its graphs do (`src/models/*.cpp`).

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::weights::gguf::{GgufFile, Value as Stored};

/// A family in llama.cpp's terms.
#[derive(Debug)]
pub(super) struct Architecture {
    /// Value of `general.architecture`.
    name: &'static str,
    /// transformers' `model_type`.
    model_type: &'static str,
    /// Name of transformers' class.
    class: &'static str,
    act: &'static str,
    /// Whether the rows of queries and keys are reordered (`LlamaModel.permute` in `conversion/llama.py`).
    pub permutes: bool,
}

const ARCHITECTURES: &[Architecture] = &[
    known("gemma", "gemma", "GemmaForCausalLM", GELU),
    known("gemma2", "gemma2", "Gemma2ForCausalLM", GELU),
    known("gemma3", "gemma3_text", "Gemma3ForCausalLM", GELU),
    Architecture { permutes: true, ..known("llama", "llama", "LlamaForCausalLM", "silu") },
    known("phi3", "phi3", "Phi3ForCausalLM", "silu"),
    known("qwen2", "qwen2", "Qwen2ForCausalLM", "silu"),
    known("qwen3", "qwen3", "Qwen3ForCausalLM", "silu"),
];

/// The largest accepted number of features of a head: a table of this size is built before any tensor is checked.
const LONGEST_HEAD: u64 = 1 << 16;
const GELU: &str = "gelu_pytorch_tanh";

const fn known(
    name: &'static str,
    model_type: &'static str,
    class: &'static str,
    act: &'static str,
) -> Architecture {
    Architecture { name, model_type, class, act, permutes: false }
}

/// The architecture that the file names.
pub(super) fn architecture(file: &GgufFile) -> Result<&'static Architecture> {
    let path = file.path().display();
    let metadata = file.metadata();
    if let Some(kind) = metadata.text("general.type")?.filter(|kind| *kind != "model") {
        return Err(Error::Model(format!(
            "{path} holds a GGUF {kind}, not a model; name a model as the base"
        )));
    }
    if let Some(parts) = metadata.integer("split.count")?.filter(|parts| *parts > 1) {
        return Err(Error::Model(format!(
            "{path} is one of {parts} parts of a model; join them with llama.cpp's `llama-gguf-split --merge`"
        )));
    }
    let name = metadata.text("general.architecture")?.unwrap_or("");
    ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        Error::Model(format!(
            "{path} is of the architecture {name:?}, which is not supported as GGUF (supported: {}); use the model's \
             safetensors if its family is supported",
            known.join(", ")
        ))
    })
}

/// The metadata keys below the architecture's name.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size_or_none(&self, name: &str) -> Result<Option<u64>> {
        self.file.metadata().integer(&self.key(name))
    }

    fn size(&self, name: &str) -> Result<u64> {
        self.required(name, self.size_or_none(name)?)
    }

    fn number_or_none(&self, name: &str) -> Result<Option<f64>> {
        let number = self.file.metadata().float(&self.key(name))?;
        // The value is stored as f32, so 0.100000001 means 0.1.
        Ok(number.map(|number| (number as f32).to_string().parse().unwrap_or(number)))
    }

    fn number(&self, name: &str) -> Result<f64> {
        self.required(name, self.number_or_none(name)?)
    }

    /// A value without which the model cannot be computed.
    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let (path, key) = (self.file.path().display(), self.key(name));
            Error::Model(format!("{path} has no {key} in its metadata; convert the model again"))
        })
    }

    fn unsupported(&self, name: &str, why: &str) -> Error {
        let (path, key) = (self.file.path().display(), self.key(name));
        Error::Model(format!("{path}: {key}: {why}"))
    }
}

/// Returns the `config.json` that corresponds to the metadata.
pub(super) fn read(file: &GgufFile, architecture: &Architecture) -> Result<Map<String, Value>> {
    let keys = Keys { file, architecture: architecture.name };
    let has = |tensor: &str| file.find(tensor).is_some();
    let (hidden, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    if keys.size_or_none("expert_count")?.unwrap_or(0) > 0 {
        return Err(keys.unsupported("expert_count", "mixtures of experts are not supported"));
    }
    let head_dim = match keys.size_or_none("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    if keys.size_or_none("attention.value_length")?.is_some_and(|value| value != head_dim) {
        return Err(keys.unsupported("attention.value_length", "only values as long as keys are supported"));
    }
    let layers = keys.size("block_count")?;
    if layers > file.tensors().count() as u64 {
        return Err(keys.unsupported("block_count", &format!("{layers} blocks, more than there are tensors")));
    }
    if head_dim == 0 || head_dim > LONGEST_HEAD {
        return Err(keys.unsupported("attention.key_length", &format!("heads of {head_dim} features")));
    }
    let vocab = file.tensor("token_embd.weight")?.shape.first().copied();
    let mut config = json!({
        "architectures": [architecture.class],
        "model_type": architecture.model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": keys.size("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.size_or_none("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.size("context_length")?,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon")?,
        "rope_theta": keys.number_or_none("rope.freq_base")?.unwrap_or(10_000.0),
        "hidden_act": architecture.act,
        "tie_word_embeddings": !has("output.weight"),
        "torch_dtype": "bfloat16",
    });
    if let Some(scaling) = rope_scaling(&keys)? {
        config["rope_scaling"] = scaling;
    }
    if let Some(turned) = keys.size_or_none("rope.dimension_count")?.filter(|turned| *turned != head_dim) {
        config["partial_rotary_factor"] = json!(turned as f64 / head_dim as f64);
    }
    for (key, id) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
        if let Some(id) = file.metadata().integer(&format!("tokenizer.ggml.{id}_token_id"))? {
            config[format!("{key}_token_id")] = id.into();
        }
    }
    match architecture.name {
        "llama" => {
            config["attention_bias"] = has("blk.0.attn_q.bias").into();
            config["mlp_bias"] = has("blk.0.ffn_up.bias").into();
        }
        "qwen2" | "qwen3" => config["use_sliding_window"] = false.into(),
        "phi3" => {
            let window = keys.size_or_none("attention.sliding_window")?.filter(|window| *window > 0);
            config["sliding_window"] = window.into();
        }
        _ => gemma(&keys, &mut config, (hidden, heads, head_dim))?,
    }
    match config {
        Value::Object(config) => Ok(config),
        _ => Ok(Map::new()),
    }
}

/// Reads the rotary scaling as `llama_hparams` and `llama_context` do (`src/llama-model.cpp`, `src/llama-context.cpp`).
/// For these architectures they read none of yarn's settings `yarn_beta_fast`, `yarn_beta_slow` and `yarn_attn_factor`:
/// they always compute with 32, 1 and 1, whatever the file sets, and so does this code.
fn rope_scaling(keys: &Keys) -> Result<Option<Value>> {
    if keys.file.find("rope_factors_long.weight").is_some() {
        return Err(keys.unsupported("rope.scaling.type", "the rotary scaling longrope is not supported"));
    }
    let factor = match keys.number_or_none("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The key's older name.
        None => keys.number_or_none("rope.scale_linear")?,
    };
    let factor = factor.filter(|factor| *factor != 0.0);
    let attention = keys.number_or_none("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let kind = keys.file.metadata().text(&keys.key("rope.scaling.type"))?.unwrap_or("linear");
    if kind != "yarn" && attention != 1.0 {
        return Err(keys.unsupported(
            "rope.scaling.attn_factor",
            "a factor of cosine and sine is supported for yarn only",
        ));
    }
    Ok(match kind {
        "none" => None,
        "linear" => {
            let scales = factor.filter(|factor| *factor != 1.0);
            scales.map(|factor| json!({"rope_type": "linear", "factor": factor}))
        }
        "yarn" => {
            let factor = factor.unwrap_or(1.0);
            let mut scaling = json!({"rope_type": "yarn", "factor": factor});
            if let Some(original) = keys.size_or_none("rope.scaling.original_context_length")? {
                scaling["original_max_position_embeddings"] = original.into();
            }
            if attention != 1.0 {
                if keys.architecture == "gemma3" {
                    let why =
                        "it would apply to the layers with a window too, which no config.json can express";
                    return Err(keys.unsupported("rope.scaling.attn_factor", why));
                }
                // llama.cpp's value is an extra factor on top of yarn's own, transformers' is their product.
                let own = if factor > 1.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 };
                scaling["attention_factor"] = json!(own * attention);
            }
            Some(scaling)
        }
        other => {
            let why = format!("{other:?} is not supported; known: none, linear, yarn");
            return Err(keys.unsupported("rope.scaling.type", &why));
        }
    })
}

/// Adds the settings specific to the Gemma models; constants are those of `src/models/gemma*.cpp`.
fn gemma(keys: &Keys, config: &mut Value, (hidden, heads, head_dim): (u64, u64, u64)) -> Result<()> {
    config["hidden_activation"] = GELU.into();
    let layers = keys.size("block_count")?;
    // llama.cpp recognises the 27B models by their number of layers: only they scale by hidden / heads.
    let (largest, pattern, window) = match keys.architecture {
        "gemma2" => (46, 2, Some(4096)),
        "gemma3" => (62, 6, None),
        _ => return Ok(()),
    };
    let scalar = if layers == largest { hidden.checked_div(heads).unwrap_or(head_dim) } else { head_dim };
    config["query_pre_attn_scalar"] = scalar.into();
    if keys.architecture == "gemma2" {
        config["attn_logit_softcapping"] =
            json!(keys.number_or_none("attn_logit_softcapping")?.unwrap_or(50.0));
        config["final_logit_softcapping"] =
            json!(keys.number_or_none("final_logit_softcapping")?.unwrap_or(30.0));
    } else {
        config["final_logit_softcapping"] = json!(keys.number_or_none("final_logit_softcapping")?);
        config["rope_local_base_freq"] =
            json!(keys.number_or_none("rope.freq_base_swa")?.unwrap_or(10_000.0));
    }
    let window = keys.size_or_none("attention.sliding_window")?.filter(|window| *window > 0).or(window);
    config["sliding_window"] = window.into();
    let key = keys.key("attention.sliding_window_pattern");
    let slides: Vec<bool> = match (window, keys.file.metadata().get(&key)) {
        (None, _) => vec![false; layers as usize],
        (_, Some(Stored::Array(each))) => each.iter().map(|slides| slides == Stored::Flag(true)).collect(),
        (_, stored) => {
            let given = match stored {
                Some(Stored::Integer(period)) => u64::try_from(period).ok(),
                _ => None,
            };
            let period = given.unwrap_or(pattern);
            (0..layers).map(|layer| period == 0 || layer % period < period - 1).collect()
        }
    };
    let name = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
    config["layer_types"] = slides.iter().map(name).collect();
    Ok(())
}
