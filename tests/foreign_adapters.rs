//! Adapters as other programs write them: the same numbers under their names, types and settings.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use dpo_lora::adapter::{peft, read};
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::spec::DecoderSpec;
use dpo_lora::trainable::Adapters;
use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn model(name: &str) -> (PathBuf, DecoderSpec) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
    let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
    (path, spec)
}

struct Foreign {
    name: &'static str,
    model: &'static str,
    rename: fn(&str) -> String,
    bf16: bool,
    settings: Value,
}

fn same(name: &str) -> String {
    name.into()
}

/// Keys that their `save_pretrained` adds to those of PEFT, and settings that differ.
fn cases() -> Vec<Foreign> {
    let unsloth = json!({
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama", "unsloth_fixed": true},
        "base_model_name_or_path": "unsloth/Llama-3.2-1B-Instruct-bnb-4bit",
        "target_modules": "(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\\bmodel\\.layers\\.[\\d]{1,}\\.(?:self_attn|mlp)\\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))",
        "loftq_config": {}, "megatron_config": null, "qalora_group_size": 16, "corda_config": null, "eva_config": null,
        "ensure_weight_tying": false, "peft_version": "0.18.0", "lora_bias": false, "runtime_config": {"ephemeral_gpu_offload": false},
    });
    let factory = json!({
        "auto_mapping": null, "base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "exclude_modules": null, "layers_pattern": null,
        "layers_to_transform": null, "megatron_core": "megatron.core", "modules_to_save": null, "revision": null, "loftq_config": {},
        "alpha_pattern": {}, "rank_pattern": {}, "use_dora": false, "use_qalora": false, "trainable_token_indices": null,
    });
    vec![
        Foreign { name: "Unsloth", model: "llama", rename: same, bf16: true, settings: unsloth.clone() },
        Foreign {
            name: "Unsloth, Gemma 3 that sees",
            model: "gemma3",
            rename: |name| {
                name.replace("base_model.model.model.layers", "base_model.model.model.language_model.layers")
            },
            bf16: false,
            settings: unsloth,
        },
        Foreign {
            name: "an older Gemma 3 that sees",
            model: "gemma3",
            rename: |name| {
                name.replace("base_model.model.model.layers", "base_model.model.language_model.model.layers")
            },
            bf16: false,
            settings: json!({}),
        },
        Foreign { name: "LLaMA-Factory", model: "llama", rename: same, bf16: true, settings: factory },
        Foreign {
            name: "a PEFT model's own state",
            model: "llama",
            rename: |name| name.replace(".weight", ".default.weight"),
            bf16: false,
            settings: json!({"peft_type": "lora"}),
        },
        Foreign {
            name: "torch.compile",
            model: "llama",
            rename: |name| name.replace("base_model.model.", "base_model.model._orig_mod."),
            bf16: false,
            settings: json!({}),
        },
        Foreign {
            name: "FSDP with activation checkpointing",
            model: "qwen2",
            rename: |name| {
                name.replace(".self_attn", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn")
            },
            bf16: true,
            settings: json!({}),
        },
    ]
}

fn write(case: &Foreign, from: &Path, to: &Path) {
    let bytes = std::fs::read(from.join(peft::WEIGHTS)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let narrow = |view: &TensorView| -> Vec<u8> {
        let numbers = view.data().chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
        numbers.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect()
    };
    let renamed: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .iter()
        .map(|(name, view)| {
            let bytes = if case.bf16 { narrow(view) } else { view.data().to_vec() };
            ((case.rename)(name), view.shape().to_vec(), bytes)
        })
        .collect();
    let dtype = if case.bf16 { Dtype::BF16 } else { Dtype::F32 };
    let views = renamed
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(to.join(peft::WEIGHTS), safetensors::serialize(views, None).unwrap()).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join(peft::CONFIG)).unwrap()).unwrap();
    for (key, value) in case.settings.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(to.join(peft::CONFIG), config.to_string()).unwrap();
}

fn assert_same(name: &str, found: &Adapters, want: &Adapters, narrow: bool) {
    assert_eq!(found.loras("a test").unwrap(), want.loras("a test").unwrap(), "{name}");
    for (found, want) in found.values().iter().zip(want.values()) {
        let want = if narrow { bf16::from_f32(*want).to_f32() } else { *want };
        assert_eq!(*found, want, "{name}");
    }
}

#[test]
fn the_same_numbers_under_other_names_types_and_settings() {
    for case in cases() {
        let (path, spec) = model(case.model);
        let from = path.join("adapters/plain");
        let place = tempfile::tempdir().unwrap();
        write(&case, &from, place.path());
        let want = peft::read(&from, &spec).unwrap().adapters;
        let found = read::read(place.path(), &spec, false).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_same(case.name, &found.adapters, &want, case.bf16);
        assert_eq!(found.format, read::Format::Peft);
    }
}

#[test]
fn what_they_train_beside_low_rank_matrices_is_refused_by_name() {
    let (path, spec) = model("llama");
    for (key, value) in [
        // LLaMA-Factory's additional_target, and Unsloth's training of embeddings.
        ("modules_to_save", json!(["embed_tokens", "lm_head"])),
        ("use_dora", json!(true)),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("trainable_token_indices", json!([1, 2])),
    ] {
        let place = tempfile::tempdir().unwrap();
        let case =
            Foreign { name: "", model: "llama", rename: same, bf16: false, settings: json!({ key: value }) };
        write(&case, &path.join("adapters/plain"), place.path());
        let error = read::read(place.path(), &spec, false).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
