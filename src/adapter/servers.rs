//! Which programs serve an adapter, and why others do not: read off their sources (vLLM 0.32, SGLang, TGI, mistral.rs 0.9,
//! Ollama, llama.cpp, mlx-lm 0.31, OpenVINO GenAI) or seen by running them.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::head;
use super::peft::{self, Origin};
use crate::model::lora::{Lora, Slot};
use crate::model::spec::DecoderSpec;

/// What an adapter was written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A PEFT directory.
    Peft,
    /// A GGUF adapter.
    Gguf,
    /// An mlx-lm directory.
    Mlx,
}

/// Whether a program serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Serves {
    /// As it computes here.
    Yes,
    /// Not at all, or another product than here.
    No,
    /// The program takes such adapters, but whether of this family we do not know.
    Unknown,
}

/// One program's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its name.
    pub server: &'static str,
    /// Whether it serves the adapter.
    pub serves: Serves,
    /// Why not, or how to call it.
    pub note: String,
}

/// What the programs ask of an adapter.
struct Facts<'a> {
    lora: &'a Lora,
    spec: &'a DecoderSpec,
    rank: usize,
    rslora: bool,
    patterns: bool,
    integer_alpha: bool,
    /// Whether all modules have one scale.
    uniform: bool,
    head: bool,
    /// Kinds of modules (`q_proj`) that some layers adapt and others do not.
    partial: BTreeSet<String>,
    /// The base's `config.json`.
    base: &'a Value,
}

/// What each program makes of `lora`, written as `written` for a base with this `config.json`.
pub fn verdicts(written: Written, lora: &Lora, spec: &DecoderSpec, base: &Value) -> Vec<Verdict> {
    let facts = Facts::new(lora, spec, base);
    let verdict = |server, (serves, note): (Serves, String)| Verdict { server, serves, note };
    let elsewhere = |format: &str| (Serves::No, format!("it reads another format: --format {format}"));
    let peft = written == Written::Peft;
    let of_peft =
        |answer: fn(&Facts) -> (Serves, String)| if peft { answer(&facts) } else { elsewhere("peft") };
    vec![
        verdict("PEFT", of_peft(|_| yes("PeftModel.from_pretrained(base, directory)"))),
        verdict("vLLM", of_peft(vllm)),
        verdict("SGLang", of_peft(sglang)),
        verdict("TGI, LoRAX", of_peft(tgi)),
        verdict("mistral.rs", of_peft(mistralrs)),
        verdict("OpenVINO GenAI", of_peft(openvino)),
        verdict("llama.cpp", if written == Written::Gguf { llama_cpp(&facts) } else { elsewhere("gguf") }),
        verdict(
            "Ollama",
            match written {
                Written::Gguf => llama_cpp(&facts),
                Written::Peft => ollama(&facts),
                Written::Mlx => elsewhere("gguf"),
            },
        ),
        verdict(
            "mlx-lm",
            if written == Written::Mlx { yes("--adapter-path directory") } else { elsewhere("mlx") },
        ),
    ]
}

fn yes(how: &str) -> (Serves, String) {
    (Serves::Yes, how.into())
}

fn no(why: impl Into<String>) -> (Serves, String) {
    (Serves::No, why.into())
}

impl<'a> Facts<'a> {
    fn new(lora: &'a Lora, spec: &'a DecoderSpec, base: &'a Value) -> Self {
        let config = peft::config(lora, spec, 0.0, &Origin::default());
        let filled = |key: &str| config[key].as_object().is_some_and(|map| !map.is_empty());
        let slots = lora.slots();
        let kind = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
        let kinds: BTreeSet<String> = slots.iter().map(|slot| kind(&slot.module)).collect();
        let bare = spec.linears().filter(|linear| lora.find(&linear.module).is_none());
        let partial = bare.map(|linear| kind(&linear.module)).filter(|kind| kinds.contains(kind)).collect();
        Self {
            rank: slots.iter().map(|slot| slot.rank).max().unwrap_or(1),
            rslora: config["use_rslora"] == true,
            patterns: filled("rank_pattern") || filled("alpha_pattern"),
            integer_alpha: config["lora_alpha"].is_u64(),
            uniform: slots.windows(2).all(|pair: &[Slot]| pair[0].scale == pair[1].scale),
            head: lora.find(&head::linear(spec).module).is_some(),
            partial,
            lora,
            spec,
            base,
        }
    }

    /// `yes`, if the program is known to adapt the family.
    fn family(&self, known: &[&str], how: String) -> (Serves, String) {
        if known.contains(&self.spec.model_type.as_str()) {
            return (Serves::Yes, how);
        }
        (Serves::Unknown, format!("whether it adapts {} is not known; {how}", self.spec.model_type))
    }
}

/// Ranks that vLLM can be told to make room for.
const VLLM_RANKS: &[usize] = &[1, 8, 16, 32, 64, 128, 256, 320, 512];

fn vllm(facts: &Facts) -> (Serves, String) {
    match VLLM_RANKS.iter().find(|rank| **rank >= facts.rank) {
        None => no(format!(
            "rank {} is above its 512; merge --output-adapter --combination svd --rank 512",
            facts.rank
        )),
        Some(rank) => {
            let room = if *rank > 16 { format!(" --max-lora-rank {rank}") } else { String::new() };
            let known =
                ["gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "phi3", "qwen2", "qwen3"];
            facts.family(&known, format!("--enable-lora --lora-modules name=directory{room}"))
        }
    }
}

fn sglang(facts: &Facts) -> (Serves, String) {
    if facts.rslora || facts.patterns {
        return no("it scales every module by lora_alpha / r, without rsLoRA and patterns: --fold-scale");
    }
    let known = ["gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"];
    facts.family(&known, "--lora-paths name=directory".into())
}

fn tgi(facts: &Facts) -> (Serves, String) {
    if facts.patterns {
        return no("it knows no rank_pattern or alpha_pattern: --fold-scale, and one rank for all modules");
    }
    if !facts.partial.is_empty() {
        let kinds: Vec<&str> = facts.partial.iter().map(String::as_str).collect();
        return no(format!("it drops {}, which not every layer adapts", kinds.join(", ")));
    }
    facts.family(
        &["gemma", "gemma2", "llama", "mistral", "phi3", "qwen2"],
        "LORA_ADAPTERS=name=directory".into(),
    )
}

fn mistralrs(facts: &Facts) -> (Serves, String) {
    if facts.head {
        return no("it refuses adapters of the head");
    }
    if facts.base.get("rope_theta").is_none_or(Value::is_null) && facts.base.get("rope_parameters").is_some()
    {
        return no(
            "it needs rope_theta at the top of the base's config.json, where transformers 5 writes rope_parameters alone; \
             add it there",
        );
    }
    let known = ["gemma", "gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"];
    facts.family(&known, "--lora name=directory".into())
}

fn openvino(facts: &Facts) -> (Serves, String) {
    if !facts.uniform {
        return no("it takes one scale for all modules: --fold-scale");
    }
    let scale = facts.lora.slots().first().map_or(1.0, |slot| slot.scale);
    yes(&format!("AdapterConfig(adapter_model.safetensors, alpha={scale})"))
}

fn llama_cpp(facts: &Facts) -> (Serves, String) {
    if facts.head && facts.spec.head.is_none() {
        return no("it does not load an adapter of a head that shares the embedding's weight; merge it");
    }
    yes("--lora file, beside a base of the same architecture")
}

fn ollama(facts: &Facts) -> (Serves, String) {
    if !["llama", "gemma2"].contains(&facts.spec.model_type.as_str()) {
        return no(format!(
            "it converts adapters of llama and gemma2, not of {}: --format gguf",
            facts.spec.model_type
        ));
    }
    if facts.rslora || facts.patterns {
        return no(
            "it scales every module by lora_alpha / r, without rsLoRA and patterns: --fold-scale, or --format gguf",
        );
    }
    if !facts.integer_alpha {
        return no("it reads lora_alpha as a whole number: --fold-scale, or --format gguf");
    }
    yes("ADAPTER directory")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;
    use serde_json::json;

    use super::*;
    use crate::model::families::{self, ConfigJson};
    use crate::model::spec::LinearSpec;

    fn answers(model: &str, case: &str, written: Written, change: impl Fn(Lora) -> Lora) -> Vec<Verdict> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        let lora = peft::read(&path.join("adapters").join(case), &spec, &Device::Cpu).unwrap().lora;
        verdicts(written, &change(lora), &spec, &json!({"rope_theta": 1e4}))
    }

    fn of<'a>(verdicts: &'a [Verdict], server: &str) -> &'a Verdict {
        verdicts.iter().find(|verdict| verdict.server == server).unwrap()
    }

    fn serving(verdicts: &[Verdict]) -> Vec<&str> {
        verdicts.iter().filter(|v| v.serves == Serves::Yes).map(|v| v.server).collect()
    }

    #[test]
    fn a_plain_adapter_of_all_layers_goes_everywhere_its_format_does() {
        let as_peft = answers("llama", "plain", Written::Peft, |lora| lora);
        let all = ["PEFT", "vLLM", "SGLang", "TGI, LoRAX", "mistral.rs", "OpenVINO GenAI", "Ollama"];
        assert_eq!(serving(&as_peft), all);
        assert_eq!(serving(&answers("llama", "plain", Written::Gguf, |lora| lora)), ["llama.cpp", "Ollama"]);
        assert_eq!(serving(&answers("llama", "plain", Written::Mlx, |lora| lora)), ["mlx-lm"]);
        assert_eq!(of(&answers("gpt2", "plain", Written::Peft, |l| l), "vLLM").serves, Serves::Unknown);
    }

    #[test]
    fn what_servers_ignore_is_said_and_folding_helps() {
        let rslora = answers("llama", "rslora", Written::Peft, |lora| lora);
        assert_eq!(serving(&rslora), ["PEFT", "vLLM", "TGI, LoRAX", "mistral.rs", "OpenVINO GenAI"]);
        assert!(of(&rslora, "SGLang").note.contains("--fold-scale"));
        let folded = |lora: Lora| Lora::stacked(&[lora], &Device::Cpu).unwrap();
        assert_eq!(of(&answers("llama", "rslora", Written::Peft, folded), "SGLang").serves, Serves::Yes);
        let patterns = answers("llama", "patterns", Written::Peft, |lora| lora);
        assert_eq!(serving(&patterns), ["PEFT", "vLLM", "mistral.rs"]);
        let subset = answers("llama", "subset", Written::Peft, |lora| lora);
        assert!(of(&subset, "TGI, LoRAX").note.contains("gate_proj, o_proj, q_proj"), "{subset:?}");
    }

    #[test]
    fn ranks_heads_and_bases_have_their_limits() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        let with = |module: &str, rank: usize, base: Value| {
            let slot = Slot::new(&LinearSpec::new(module.into(), 32, 48), rank, 1.5, 1.5 / rank as f64);
            let lora = Lora::zeros(vec![slot], &Device::Cpu).unwrap();
            let tied = DecoderSpec { head: None, ..spec.clone() };
            [Written::Peft, Written::Gguf].map(|written| verdicts(written, &lora, &tied, &base))
        };
        let q = "model.layers.0.self_attn.q_proj";
        assert!(of(&with(q, 17, json!({}))[0], "vLLM").note.contains("--max-lora-rank 32"));
        assert!(of(&with(q, 513, json!({}))[0], "vLLM").note.contains("above its 512"));
        assert!(of(&with(q, 2, json!({}))[0], "Ollama").note.contains("whole number"));
        let new = with(q, 2, json!({"rope_parameters": {}}));
        assert!(of(&new[0], "mistral.rs").note.contains("rope_theta"));
        let [peft, gguf] = with("lm_head", 2, json!({}));
        assert_eq!(of(&peft, "mistral.rs").serves, Serves::No);
        assert_eq!(of(&gguf, "llama.cpp").serves, Serves::No);
    }
}
