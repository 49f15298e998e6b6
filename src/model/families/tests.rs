//! Tests that configurations with the keys found in files on the Hub are fully understood.

use serde_json::{Value, json};

use super::{ConfigJson, spec};

/// Sizes of a small model under Llama's names, overridden by `more`.
fn small(model_type: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "bfloat16", "use_cache": true,
        "transformers_version": "4.44.0",
    });
    let (Value::Object(config_map), Value::Object(more)) = (&mut config, more) else { panic!("objects") };
    config_map.extend(more);
    config
}

#[test]
fn keys_that_files_of_the_hub_have_are_accepted() {
    let phi = json!({"head_dim": 16, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false,
        "partial_rotary_factor": 0.75, "original_max_position_embeddings": 128, "auto_map": {"AutoConfig": "x.y"},
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                         "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}});
    let command = json!({"layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "rotary_pct": 1.0,
        "position_embedding_type": "rope_gptj", "sliding_window_pattern": 4, "use_embedding_sharing": true,
        "use_gated_activation": true, "use_parallel_block": true, "use_parallel_embedding": false,
        "logit_scale": 0.25, "use_qk_norm": false, "cache_implementation": "hybrid"});
    let starcoder = json!({"mlp_type": "default", "norm_type": "layer_norm", "use_bias": true,
        "attention_softmax_in_fp32": true, "scale_attn_weights": true, "scale_attention_softmax_in_fp32": true});
    let gpt2 = json!({"model_type": "gpt2", "n_ctx": 64, "n_positions": 64, "n_embd": 32, "n_head": 2, "n_layer": 2,
        "vocab_size": 99, "summary_type": "cls_index", "resid_pdrop": 0.1, "bos_token_id": 98, "eos_token_id": 98,
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}});
    let gptj = json!({"model_type": "gptj", "rotary": true, "rotary_dim": 8, "n_embd": 32, "n_head": 2, "n_layer": 2,
        "n_positions": 64, "vocab_size": 99, "tokenizer_class": "GPT2Tokenizer", "scale_attn_weights": true});
    let gemma3 = json!({"model_type": "gemma3", "mm_tokens_per_image": 256, "image_token_index": 262144,
        "boi_token_index": 255999, "eos_token_id": [1, 106], "vision_config": {"hidden_size": 1152},
        "architectures": ["Gemma3ForConditionalGeneration"], "initializer_range": 0.02,
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}});
    let qwen_vl = small(
        "qwen2_5_vl",
        json!({"vision_start_token_id": 5, "vision_token_id": 6, "use_sliding_window": false,
        "sliding_window": 32768, "max_window_layers": 70, "rope_theta": 1e6, "tie_word_embeddings": true,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "vision_config": {"depth": 32}}),
    );
    let gemma2 = json!({"head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 224, "sliding_window": 4096, "sliding_window_size": 4096,
        "cache_implementation": "hybrid", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0});
    for config in [
        small(
            "llama",
            json!({"is_llama_config": true, "rope_interleaved": false, "pretraining_tp": 1, "rope_scaling": null,
            "transformers.js_config": {"dtype": "q4"}, "unsloth_version": "2024.9", "_model_name_or_path": "Gemma 3 270m", "attention_dropout": 0.0}),
        ),
        small("qwen2", json!({"use_mrope": false, "sliding_window": 131072, "max_window_layers": 28})),
        small(
            "smollm3",
            json!({"max_window_layers": 28, "use_sliding_window": false, "sliding_window": null}),
        ),
        small("phi3", phi),
        small("cohere2", command),
        small("starcoder2", starcoder),
        small("gemma2", gemma2),
        small(
            "opt",
            json!({"ffn_dim": 96, "prefix": "</s>", "_remove_final_layer_norm": false, "layerdrop": 0.0,
            "word_embed_proj_dim": 64, "intermediate_size": null, "num_key_value_heads": null}),
        ),
        gpt2,
        gptj,
        gemma3,
        qwen_vl,
    ] {
        let parsed = ConfigJson::parse(&config.to_string(), "config.json").unwrap();
        let found = spec(&parsed);
        assert!(found.is_ok(), "{}: {}", config["model_type"], found.unwrap_err());
        assert!(parsed.notes().is_empty(), "{:?}", parsed.notes());
    }
}

#[test]
fn the_same_keys_with_other_values_are_refused() {
    for (model_type, key, value) in [
        ("phi3", "full_attn_mod", json!(2)),
        ("cohere2", "use_parallel_block", json!("no")),
        ("starcoder2", "norm_type", json!("rms")),
        ("gemma2", "sliding_window_size", json!(99)),
        ("llama", "sliding_window", json!(4096)),
    ] {
        let config = small(model_type, json!({key: value, "head_dim": 16}));
        let error = spec(&ConfigJson::parse(&config.to_string(), "config.json").unwrap()).unwrap_err();
        assert!(error.to_string().contains(&format!("config.json: {key}: is ")), "{error}");
    }
}

#[test]
fn every_head_of_command_r_has_gains_of_its_own_even_if_there_is_one() {
    for heads in [1, 2] {
        let config = small("cohere", json!({"use_qk_norm": true, "num_key_value_heads": heads}));
        let spec = spec(&ConfigJson::parse(&config.to_string(), "config.json").unwrap()).unwrap();
        let (_, keys) = spec.layers[0].attention.qk_norm.as_ref().unwrap();
        assert_eq!((keys.runs, keys.size), (Some(heads), 16));
    }
}

#[test]
fn norms_of_a_negative_epsilon_are_refused() {
    for (model_type, key) in
        [("llama", "rms_norm_eps"), ("cohere", "layer_norm_eps"), ("nemotron", "norm_eps")]
    {
        let config = small(model_type, json!({key: -1.0}));
        let error = spec(&ConfigJson::parse(&config.to_string(), "config.json").unwrap()).unwrap_err();
        assert!(error.to_string().contains(&format!("config.json: {key}: is -1")), "{error}");
    }
}
