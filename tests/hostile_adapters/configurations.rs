//! Files `adapter_config.json`, and directories without weights.

use std::fs;
use std::path::Path;

use dpo_lora::adapter::peft;
use serde_json::{Value, json};

use super::{Cases, good};

fn with(config: &[u8], key: &str, value: Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(config).unwrap();
    config[key] = value;
    serde_json::to_vec(&config).unwrap()
}

#[test]
fn configurations() {
    let (config, weights) = good();
    let mut cases = Cases::new();
    for (name, text) in [
        ("empty", String::new()),
        ("cut", String::from_utf8_lossy(&config[..config.len() / 2]).into()),
        ("null", "null".into()),
        ("deep", "{\"a\":".repeat(50_000)),
        ("a number", "1e999".into()),
        ("no type", "{}".into()),
        ("not UTF-8", String::from_utf8_lossy(&[b'{', 0xff, b'}']).into()),
    ] {
        cases.peft(&format!("configuration: {name}"), text, &weights);
    }
    for (key, value) in [
        ("r", json!(-4)),
        ("r", json!(0)),
        ("r", json!(5)),
        ("r", json!(u64::MAX)),
        ("r", json!("4")),
        ("lora_alpha", json!("x")),
        ("lora_alpha", json!([6])),
        ("peft_type", json!("IA3")),
        ("peft_type", json!(7)),
        ("use_dora", json!(true)),
        ("use_rslora", json!("yes")),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 4]])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("loftq")),
        ("rank_pattern", json!([4])),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!({"q_proj": -1})),
        ("rank_pattern", json!({"q_proj": 1e30})),
        ("rank_pattern", json!({"(": 4})),
        ("rank_pattern", json!({"(?P<a": 4})),
        ("rank_pattern", json!({"\\": 4})),
        ("rank_pattern", json!({"(?R)": 4})),
        ("rank_pattern", json!({"(a{1000}){1000}": 4})),
        ("rank_pattern", json!({"((a{100}){100}){100}": 4})),
        ("alpha_pattern", json!({"(((((a{9}){9}){9}){9}){9}){9}{9}{9}": 4})),
        ("alpha_pattern", json!({"q_proj": "6"})),
    ] {
        cases.peft(&format!("{key} {value}"), with(&config, key, value.clone()), &weights);
    }
    // Catastrophic backtracking, once and many times. A wrong rank in addition makes the cases that terminate fail.
    let path = "(?=(([a-z_.0-9]+)+)+x)\\1!|(([a-z_.0-9]+)*)*\\3y";
    cases.peft("a catastrophic pattern", with(&config, "rank_pattern", json!({path: 4})), &weights);
    let many: serde_json::Map<String, Value> =
        (0..2_000).map(|i| (format!("(?!{i})(([a-z_.]+)+)+(?<=!){i}"), json!(9))).collect();
    cases.peft(
        "2,000 slow patterns",
        with(&with(&config, "r", json!(5)), "alpha_pattern", many.into()),
        &weights,
    );
    let nested = "(".repeat(20_000) + &")".repeat(20_000);
    cases.peft("20,000 groups", with(&config, "rank_pattern", json!({nested: 4})), &weights);
    let directory = cases.path();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("adapter_config.json"), &config).unwrap();
    cases.refused("no weights", &directory);
    fs::write(directory.join("adapter_model.bin"), b"PK").unwrap();
    cases.refused("a pickle", &directory);
    fs::create_dir(directory.join(peft::WEIGHTS)).unwrap();
    cases.refused("a directory for weights", &directory);
    cases.refused("nothing there", Path::new("/nowhere/at/all"));
    cases.done(40);
}
