//! Models that are refused, with the reason and a remedy.

use serde_json::Value;

use super::json::ConfigJson;
use crate::error::Result;

/// Quantisation methods (`quant_method`) of transformers, with a description.
const QUANTIZED: &[(&str, &str)] = &[
    ("aqlm", "AQLM"),
    ("auto-round", "AutoRound"),
    ("awq", "AWQ"),
    ("bitnet", "BitNet, ternary weights"),
    ("bitsandbytes", "bitsandbytes"),
    ("compressed-tensors", "compressed-tensors (FP8, NVFP4, INT4, ...)"),
    ("eetq", "EETQ"),
    ("fbgemm_fp8", "FP8"),
    ("fp8", "FP8"),
    ("fp_quant", "FP-Quant (MXFP4, NVFP4)"),
    ("gptq", "GPTQ"),
    ("higgs", "HIGGS"),
    ("hqq", "HQQ"),
    ("modelopt", "NVIDIA ModelOpt (FP8, NVFP4)"),
    ("mxfp4", "MXFP4"),
    ("quanto", "Quanto"),
    ("quark", "AMD Quark"),
    ("spqr", "SpQR"),
    ("torchao", "torchao"),
    ("vptq", "VPTQ"),
];

/// Descriptions of other model types, each with its types.
const OTHERS: &[(&str, &[&str])] = &[
    (
        "a mixture of experts, which is not supported yet",
        &[
            "afmoe",
            "bailing_moe",
            "dbrx",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v4",
            "dots1",
            "ernie4_5_moe",
            "exaone_moe",
            "flex_olmo",
            "glm4_moe",
            "gpt_oss",
            "granitemoe",
            "granitemoeshared",
            "grok-1",
            "hunyuan_v1_moe",
            "jetmoe",
            "kimi_k2",
            "llama4",
            "llama4_text",
            "longcat_flash",
            "minimax",
            "minimax_m2",
            "mixtral",
            "olmoe",
            "phimoe",
            "qwen2_moe",
            "qwen3_moe",
            "qwen3_vl_moe",
            "qwen3_omni_moe",
            "solar_open",
        ],
    ),
    (
        "a hybrid of attention and a recurrent or convolutional layer, which is not supported yet",
        &[
            "bamba",
            "falcon_h1",
            "granitemoehybrid",
            "jamba",
            "kimi_linear",
            "lfm2",
            "lfm2_moe",
            "nemotron_h",
            "qwen3_next",
            "qwen3_5",
            "qwen3_5_moe",
            "recurrent_gemma",
            "zamba",
            "zamba2",
        ],
    ),
    (
        "a recurrent model without attention, which is not supported",
        &["falcon_mamba", "mamba", "mamba2", "rwkv", "rwkv7", "xlstm"],
    ),
    (
        "an encoder, or an encoder with a decoder; a decoder alone is supported",
        &[
            "bart",
            "bert",
            "deberta",
            "deberta-v2",
            "distilbert",
            "electra",
            "longt5",
            "m2m_100",
            "marian",
            "mbart",
            "modernbert",
            "mt5",
            "nllb-moe",
            "pegasus",
            "roberta",
            "t5",
            "t5gemma",
            "umt5",
            "whisper",
            "xlm-roberta",
        ],
    ),
];

/// Families whose `config.json` and tensors equal those of another, with the `model_type` to use instead.
const SAME: &[(&str, &str)] =
    &[("Yi", "llama"), ("aquila", "llama"), ("aquila3", "llama"), ("xverse", "llama")];

/// Refuses quantised weights in safetensors, naming the method.
///
/// # Errors
/// If `quantization_config` or `compression_config` names one.
pub(super) fn check_quantization(config: &ConfigJson) -> Result<()> {
    let text = config.part("text_config");
    for part in [Some(config), text.as_ref()].into_iter().flatten() {
        for key in ["quantization_config", "compression_config"] {
            if let Some(settings) = part.given(key) {
                return Err(part.error(key, &quantized(settings)));
            }
        }
    }
    Ok(())
}

fn quantized(settings: &Value) -> String {
    let said = ["quant_method", "quantization_method"].iter().find_map(|key| settings.get(key)?.as_str());
    let bits = |key: &str| settings.get(key) == Some(&Value::Bool(true));
    let method = match said {
        Some(method) => method,
        None if bits("load_in_4bit") || bits("load_in_8bit") => "bitsandbytes",
        None => "unnamed",
    };
    let name = QUANTIZED.iter().find(|(known, _)| known.eq_ignore_ascii_case(method)).map(|(_, name)| *name);
    let shown = name.map_or(String::new(), |name| format!(" ({name})"));
    format!(
        "the weights are quantised by quant_method {method:?}{shown}, which is not read. Name the unquantised model as the base, \
         a GGUF file of it for 4 to 8 bits, or dequantise the weights with transformers (dequantize) and save them"
    )
}

/// Explains why a `model_type` is not supported.
pub(super) fn why<'a>(
    config: &ConfigJson,
    model_type: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let said = format!("{model_type:?}");
    if let Some((what, _)) = OTHERS.iter().find(|(_, types)| types.contains(&model_type)) {
        return format!("{said} is {what}");
    }
    let experts = ["num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"];
    let text = config.part("text_config");
    let parts = [Some(config), text.as_ref()];
    if parts.into_iter().flatten().any(|part| experts.iter().any(|key| part.given(key).is_some())) {
        return format!("{said} is a mixture of experts, which is not supported yet");
    }
    // Another family is suggested only if it computes the same.
    let same = SAME.iter().find(|(name, _)| name.eq_ignore_ascii_case(model_type)).map(|(_, same)| *same);
    let same = same.or_else(|| known.clone().find(|name| name.eq_ignore_ascii_case(model_type)));
    let hint = same.map_or(String::new(), |same| format!("; a {same} computes the same: write {same:?}"));
    let known: Vec<&str> = known.collect();
    format!("{said} is not supported{hint}. Known: {}", known.join(", "))
}

/// Class prefixes that do not follow from the `model_type` in the usual way.
const CLASSES: &[(&str, &str)] = &[
    ("gpt_neox", "GPTNeoX"),
    ("gptj", "GPTJ"),
    ("gpt2", "GPT2"),
    ("hunyuan_v1_dense", "HunYuanDenseV1"),
    ("opt", "OPT"),
    ("qwen2_5_vl", "Qwen2_5_VL"),
    ("qwen2_5_vl_text", "Qwen2_5_VL"),
    ("qwen3_vl", "Qwen3VL"),
    ("qwen3_vl_text", "Qwen3VL"),
    ("stablelm", "StableLm"),
    ("gemma3_text", "Gemma3"),
    ("smollm3", "SmolLM3"),
    ("ernie4_5", "Ernie4_5"),
];

/// Refuses a `model_type` that disagrees with `architectures`: one of the two was edited, and it is impossible to tell
/// which one matches the trained weights.
pub(super) fn check_architectures(
    config: &ConfigJson,
    model_type: &str,
    mut known: impl Iterator<Item = &'static str>,
) -> Result<()> {
    let architectures = config.strings_or_none("architectures")?.unwrap_or_default();
    let Some(architecture) = architectures.first() else { return Ok(()) };
    let other = known.find(|name| is_of(architecture, name));
    match other {
        Some(_) if is_of(architecture, model_type) => Ok(()),
        Some(other) => {
            let why = format!(
                "is {model_type:?}, but architectures names {architecture}, a class of {other}; correct the one that was edited"
            );
            config.refuse("model_type", &why)
        }
        None => Ok(()),
    }
}

/// Returns whether a class, such as `Qwen2ForCausalLM`, belongs to a family.
fn is_of(class: &str, model_type: &str) -> bool {
    let prefix =
        CLASSES.iter().find(|(name, _)| *name == model_type).map(|(_, prefix)| (*prefix).to_string());
    let camel = || -> String {
        let capital = |word: &str| {
            let mut letters = word.chars();
            letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
        };
        model_type.split('_').map(capital).collect()
    };
    let rest = class.strip_prefix(prefix.unwrap_or_else(camel).as_str());
    rest.is_some_and(|rest| {
        rest.starts_with("For") || rest.starts_with("LMHead") || rest == "Model" || rest == "TextModel"
    })
}

/// Returns the error for a refused model.
#[cfg(test)]
mod tests {
    use super::super::spec;
    use super::*;

    fn refusal(text: &str) -> String {
        let config = ConfigJson::parse(text, "config.json").unwrap();
        spec(&config).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn quantised_models_are_named_by_their_method() {
        for (settings, word) in [
            (r#"{"quant_method":"gptq","bits":4}"#, "GPTQ"),
            (r#"{"quant_method":"compressed-tensors"}"#, "compressed-tensors"),
            (r#"{"load_in_4bit":true}"#, "bitsandbytes"),
            (r#"{"quant_method":"brandnew"}"#, "brandnew"),
            ("true", "unnamed"),
        ] {
            let error = refusal(&format!(r#"{{"model_type":"llama","quantization_config":{settings}}}"#));
            assert!(error.contains(word) && error.contains("unquantised"), "{settings}: {error}");
            let error = refusal(&format!(
                r#"{{"model_type":"gemma3","text_config":{{"quantization_config":{settings}}}}}"#
            ));
            assert!(error.contains(word) && error.contains("text_config.quantization_config"), "{error}");
        }
    }

    #[test]
    fn other_models_are_refused_by_what_they_are() {
        for (text, words) in [
            (r#"{"model_type":"mixtral"}"#, "mixture of experts, which is not supported yet"),
            (r#"{"model_type":"new_moe","num_experts":8}"#, "mixture of experts"),
            (r#"{"model_type":"jamba"}"#, "hybrid"),
            (r#"{"model_type":"t5"}"#, "encoder"),
            (r#"{"model_type":"Yi"}"#, "write \"llama\""),
            (r#"{"model_type":"Qwen2"}"#, "write \"qwen2\""),
        ] {
            let error = refusal(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        let error = refusal(r#"{"model_type":"qwen9"}"#);
        assert!(error.contains("\"qwen9\" is not supported. Known: arcee"), "{error}");
    }

    #[test]
    fn an_edited_model_type_is_refused() {
        let error = refusal(r#"{"model_type":"llama","architectures":["Qwen2ForCausalLM"]}"#);
        assert!(error.contains("a class of qwen2"), "{error}");
        for (class, model_type) in [
            ("LlamaForCausalLM", "llama"),
            ("GPTNeoXForCausalLM", "gpt_neox"),
            ("GPT2LMHeadModel", "gpt2"),
            ("Gemma3ForConditionalGeneration", "gemma3"),
            ("Gemma3ForCausalLM", "gemma3_text"),
            ("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl"),
            ("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense"),
            ("SeedOssForCausalLM", "seed_oss"),
            ("Cohere2ForCausalLM", "cohere2"),
        ] {
            assert!(is_of(class, model_type), "{class}");
        }
        assert!(!is_of("Gemma2ForCausalLM", "gemma") && !is_of("Qwen2MoeForCausalLM", "qwen2"));
    }
}
