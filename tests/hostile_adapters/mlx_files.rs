//! Adapters of mlx-lm.

use dpo_lora::adapter::mlx;
use serde_json::json;

use super::{Cases, safetensors, tensor};

#[test]
fn mlx_adapters() {
    let mut cases = Cases::new();
    let config = json!({"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.0}}).to_string();
    let name = "model.layers.0.self_attn.q_proj";
    let pair = |a: &str, b: &str| {
        format!(
            "{{{},{}}}",
            tensor(&format!("{name}.lora_a"), "F32", a, "[0,512]"),
            tensor(&format!("{name}.lora_b"), "F32", b, "[512,1280]")
        )
    };
    for (what, config, header, data) in [
        ("transposed", config.clone(), pair("[4,32]", "[48,4]"), 1280),
        ("cut", config.clone(), pair("[32,4]", "[4,48]"), 1000),
        (
            "one half",
            config.clone(),
            format!("{{{}}}", tensor(&format!("{name}.lora_a"), "F32", "[32,4]", "[0,512]")),
            512,
        ),
        (
            "a stranger",
            config.clone(),
            format!("{{{}}}", tensor("model.layers.9.x.lora_a", "F32", "[32,4]", "[0,512]")),
            512,
        ),
        (
            "a scale of text",
            json!({"lora_parameters": {"scale": "2"}}).to_string(),
            pair("[32,4]", "[4,48]"),
            1280,
        ),
        (
            "dora",
            json!({"fine_tune_type": "dora", "lora_parameters": {"scale": 2}}).to_string(),
            pair("[32,4]", "[4,48]"),
            1280,
        ),
        ("no map", "3".into(), pair("[32,4]", "[4,48]"), 1280),
        ("nothing", config.clone(), "{}".into(), 0),
    ] {
        cases.directory(what, config, mlx::WEIGHTS, safetensors(&header, data));
    }
    cases.done(8);
}
