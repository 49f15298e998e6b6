//! The programs that serve an adapter, and why others do not. Each answer states its basis: a script of this repository
//! that was run with a version of the program, or the program's source code.

mod program;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use self::program::Program;
use super::head;
use super::layout::Naming;
use super::peft::{self, Origin};
use crate::error::Result;
use crate::model::spec::DecoderSpec;
use crate::trainable::{Adapter, Adapters, Lora};

/// The format of a written adapter.
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
    /// Yes, with the same results as here.
    Yes,
    /// No, or with other results than here.
    No,
    /// The program serves such adapters, but it is not known whether of this family.
    Unknown,
}

/// One program's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its name.
    pub server: &'static str,
    /// Whether it serves the adapter.
    pub serves: Serves,
    /// Why not, or how to load it.
    pub note: String,
    /// The basis of the answer: `tested with VERSION by SCRIPT`, or `from the source code of VERSION`.
    pub checked: String,
}

/// Why a program that serves LoRA does not serve DoRA.
const NO_DORA: &str = "it does not apply DoRA's lora_magnitude_vector; merge the adapter (dpo-lora merge) and serve the whole model";

const PEFT: Program = Program {
    name: "PEFT",
    source: "0.21.2",
    tested: Some(("PEFT 0.21.2", "tests/parity/peft_config.py", FIXTURES)),
};
const VLLM: Program = Program {
    name: "vLLM",
    source: "0.32.0",
    tested: Some(("vLLM 0.32.0", "examples/serving/vllm_adapter.py", VLLM_TESTED)),
};
const SGLANG: Program = Program { name: "SGLang", source: "0.5.23", tested: None };
const TGI: Program = Program { name: "TGI, LoRAX", source: "", tested: None };
const MISTRAL_RS: Program = Program {
    name: "mistral.rs",
    source: "0.9.5",
    tested: Some((
        "mistral.rs 0.9.5",
        "examples/serving/mistral_rs.py",
        &["llama", "mistral", "qwen2", "qwen3"],
    )),
};
const OPENVINO: Program = Program { name: "OpenVINO GenAI", source: "", tested: None };
const LLAMA_CPP: Program = Program {
    name: "llama.cpp",
    source: "",
    tested: Some(("xllamacpp 2026.10.11549", "examples/serving/llama_cpp.py", &["llama"])),
};
const OLLAMA: Program = Program { name: "Ollama", source: "", tested: None };
const MLX: Program = Program { name: "mlx-lm", source: "0.31", tested: None };

/// Families of `tests/fixtures/models`.
const FIXTURES: &[&str] = &[
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gptj",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
];

/// Families of `examples/serving/vllm_adapter.py`.
const VLLM_TESTED: &[&str] = &[
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
];

/// Families whose class in vLLM does not support adapters (no `SupportsLoRA`: `gpt2.py`, `gpt_j.py`, `stablelm.py`).
const VLLM_WITHOUT_ADAPTERS: &[&str] = &["gpt2", "gptj", "stablelm"];

/// The answer of the program with this naming.
pub fn of_naming(naming: Naming, verdicts: &[Verdict]) -> Option<&Verdict> {
    let program = match naming {
        Naming::Transformers => PEFT,
        Naming::Vllm => VLLM,
        Naming::Sglang => SGLANG,
    };
    verdicts.iter().find(|verdict| verdict.server == program.name)
}

/// The properties of an adapter that programs depend on.
struct Facts<'a> {
    loras: Vec<&'a Lora>,
    spec: &'a DecoderSpec,
    rank: usize,
    rslora: bool,
    dora: bool,
    patterns: bool,
    integer_alpha: bool,
    /// Whether all modules have the same scale.
    uniform: bool,
    head: bool,
    /// Kinds of modules (`q_proj`) that only some layers adapt.
    partial: BTreeSet<String>,
    /// What is trained other than by low-rank matrices, as a reason not to serve it.
    other: Option<String>,
    /// The base's `config.json`.
    base: &'a Value,
}

/// Returns how each program treats `adapters`, written as `written` for a base with this `config.json`.
///
/// # Errors
/// If they are of a kind that no program is known to load.
pub fn verdicts(
    written: Written,
    adapters: &Adapters,
    spec: &DecoderSpec,
    base: &Value,
) -> Result<Vec<Verdict>> {
    let facts = Facts::new(adapters, spec, base)?;
    let verdict = |program: Program, (serves, note): (Serves, String)| Verdict {
        server: program.name,
        serves,
        note,
        checked: match (facts.dora, &facts.other) {
            (true, _) => program.checked_of("dora.py"),
            (false, Some(_)) => program.checked_of("trainables.py"),
            (false, None) => program.checked(&spec.model_type),
        },
    };
    let layers = adapters.iter().any(|adapter| matches!(adapter, Adapter::Bottleneck(_)));
    let elsewhere = |format: &str| (Serves::No, format!("it reads another format: --format {format}"));
    let peft = written == Written::Peft;
    let of_peft = |answer: fn(&Facts) -> (Serves, String)| {
        if !peft {
            elsewhere("peft")
        } else if facts.dora {
            no(NO_DORA)
        } else if let Some(other) = &facts.other {
            no(other.as_str())
        } else {
            answer(&facts)
        }
    };
    let ollama = match written {
        Written::Gguf => llama_cpp(&facts),
        Written::Peft if facts.dora => no(NO_DORA),
        Written::Peft => facts.other.as_deref().map_or_else(|| ollama(&facts), no),
        Written::Mlx => elsewhere("gguf"),
    };
    let llama_cpp = if written == Written::Gguf { llama_cpp(&facts) } else { elsewhere("gguf") };
    let mlx = if written == Written::Mlx { yes("--adapter-path directory") } else { elsewhere("mlx") };
    Ok(vec![
        verdict(
            PEFT,
            match (peft, layers) {
                (false, _) => elsewhere("peft"),
                (true, true) => no("it has no adapter layers"),
                (true, false) => yes("PeftModel.from_pretrained(base, directory)"),
            },
        ),
        verdict(VLLM, of_peft(vllm)),
        verdict(SGLANG, of_peft(sglang)),
        verdict(TGI, of_peft(tgi)),
        verdict(MISTRAL_RS, of_peft(mistralrs)),
        verdict(OPENVINO, of_peft(openvino)),
        verdict(LLAMA_CPP, llama_cpp),
        verdict(OLLAMA, ollama),
        verdict(MLX, mlx),
    ])
}

fn yes(how: &str) -> (Serves, String) {
    (Serves::Yes, how.into())
}

fn no(why: impl Into<String>) -> (Serves, String) {
    (Serves::No, why.into())
}

impl<'a> Facts<'a> {
    fn new(adapters: &'a Adapters, spec: &'a DecoderSpec, base: &'a Value) -> Result<Self> {
        let config = peft::config(adapters, spec, 0.0, &Origin::default())?;
        let filled = |key: &str| config[key].as_object().is_some_and(|map| !map.is_empty());
        let loras: Vec<&Lora> = adapters.iter().filter_map(Adapter::low_rank).collect();
        let other = adapters.iter().find(|adapter| adapter.low_rank().is_none());
        let merged = other.is_some_and(Adapter::replaces_table);
        let remedy =
            if merged { "; merge the adapter (dpo-lora merge) and serve the whole model" } else { "" };
        let kind = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
        let kinds: BTreeSet<String> = loras.iter().map(|lora| kind(&lora.module)).collect();
        let bare = spec.linears().filter(|linear| adapters.find(&linear.module).is_none());
        let partial = bare.map(|linear| kind(&linear.module)).filter(|kind| kinds.contains(kind)).collect();
        Ok(Self {
            rank: loras.iter().map(|lora| lora.rank).max().unwrap_or(1),
            rslora: config["use_rslora"] == true,
            dora: config["use_dora"] == true,
            patterns: filled("rank_pattern") || filled("alpha_pattern"),
            integer_alpha: config["lora_alpha"].is_u64(),
            uniform: loras.windows(2).all(|pair| pair[0].scale == pair[1].scale),
            head: adapters.find(&head::linear(spec).module).is_some(),
            partial,
            other: other.map(|adapter| {
                format!("{} has {}, which it does not apply{remedy}", adapter.module(), adapter.kind())
            }),
            loras,
            spec,
            base,
        })
    }

    /// A layer whose attention is adapted only in part, which SGLang cannot stack (`sglang/srt/lora/lora.py`,
    /// `normalize_qkv_proj`): any of its three projections without q or v, or with ranks that differ.
    fn attention_in_parts(&self) -> Option<String> {
        let mut layers: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for lora in &self.loras {
            let Some((layer, leaf)) = lora.module.rsplit_once('.') else { continue };
            let Some(at) = ["q_proj", "k_proj", "v_proj"].iter().position(|name| *name == leaf) else {
                continue;
            };
            layers.entry(layer).or_default()[at] = lora.rank;
        }
        let whole = |[q, k, v]: [usize; 3]| q > 0 && q == v && (k == 0 || k == q);
        layers.into_iter().find(|(_, ranks)| !whole(*ranks)).map(|(layer, _)| layer.to_string())
    }

    /// `yes`, if the program is known to support the family.
    fn family(&self, known: &[&str], how: String) -> (Serves, String) {
        if known.contains(&self.spec.model_type.as_str()) {
            return (Serves::Yes, how);
        }
        (Serves::Unknown, format!("whether it adapts {} is not known; {how}", self.spec.model_type))
    }
}

/// The values that vLLM accepts as the maximum rank.
const VLLM_RANKS: &[usize] = &[1, 8, 16, 32, 64, 128, 256, 320, 512];

fn vllm(facts: &Facts) -> (Serves, String) {
    let family = facts.spec.model_type.as_str();
    if VLLM_WITHOUT_ADAPTERS.contains(&family) {
        return no(format!("its {family} takes no adapters; merge the adapter and serve the whole model"));
    }
    match VLLM_RANKS.iter().find(|rank| **rank >= facts.rank) {
        None => no(format!(
            "rank {} is above its 512; merge --output-adapter --combination svd --rank 512",
            facts.rank
        )),
        Some(rank) => {
            let room = if *rank > 16 { format!(" --max-lora-rank {rank}") } else { String::new() };
            facts.family(VLLM_TESTED, format!("--enable-lora --lora-modules name=directory{room}"))
        }
    }
}

fn sglang(facts: &Facts) -> (Serves, String) {
    if facts.rslora || facts.patterns {
        return no("it scales every module by lora_alpha / r, without rsLoRA and patterns: --fold-scale");
    }
    if let Some(layer) = facts.attention_in_parts() {
        return no(format!(
            "it stacks q_proj, k_proj and v_proj of a layer and needs q_proj and v_proj of one rank beside each other, but \
             {layer} lacks one or has another rank; train with target_modules that name q_proj, k_proj and v_proj, or merge"
        ));
    }
    let known = ["gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"];
    facts.family(&known, "--lora-paths name=directory".into())
}

fn tgi(facts: &Facts) -> (Serves, String) {
    if facts.patterns {
        return no(
            "it does not support rank_pattern or alpha_pattern: --fold-scale, and one rank for all modules",
        );
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
    let scale = facts.loras.first().map_or(1.0, |lora| lora.scale);
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

    use serde_json::json;

    use super::*;
    use crate::model::families::{self, ConfigJson};
    use crate::model::spec::LinearSpec;

    fn answers(
        model: &str,
        case: &str,
        written: Written,
        change: impl Fn(Adapters) -> Adapters,
    ) -> Vec<Verdict> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        let adapters = peft::read(&path.join("adapters").join(case), &spec).unwrap().adapters;
        verdicts(written, &change(adapters), &spec, &json!({"rope_theta": 1e4})).unwrap()
    }

    fn of<'a>(verdicts: &'a [Verdict], server: &str) -> &'a Verdict {
        verdicts.iter().find(|verdict| verdict.server == server).unwrap()
    }

    fn serving(verdicts: &[Verdict]) -> Vec<&str> {
        verdicts.iter().filter(|v| v.serves == Serves::Yes).map(|v| v.server).collect()
    }

    #[test]
    fn a_plain_adapter_of_all_layers_goes_everywhere_its_format_does() {
        let as_peft = answers("llama", "plain", Written::Peft, |adapters| adapters);
        let all = ["PEFT", "vLLM", "SGLang", "TGI, LoRAX", "mistral.rs", "OpenVINO GenAI", "Ollama"];
        assert_eq!(serving(&as_peft), all);
        assert_eq!(
            serving(&answers("llama", "plain", Written::Gguf, |adapters| adapters)),
            ["llama.cpp", "Ollama"]
        );
        assert_eq!(serving(&answers("llama", "plain", Written::Mlx, |adapters| adapters)), ["mlx-lm"]);
        assert_eq!(of(&answers("gpt2", "plain", Written::Peft, |l| l), "vLLM").serves, Serves::No);
        assert_eq!(of(&answers("gpt_neox", "plain", Written::Peft, |l| l), "vLLM").serves, Serves::Unknown);
    }

    #[test]
    fn what_servers_ignore_is_said_and_folding_helps() {
        let rslora = answers("llama", "rslora", Written::Peft, |adapters| adapters);
        assert_eq!(serving(&rslora), ["PEFT", "vLLM", "TGI, LoRAX", "mistral.rs", "OpenVINO GenAI"]);
        assert!(of(&rslora, "SGLang").note.contains("--fold-scale"));
        let folded = |adapters: Adapters| Adapters::stacked(&[adapters]).unwrap();
        assert_eq!(of(&answers("llama", "rslora", Written::Peft, folded), "SGLang").serves, Serves::Yes);
        let patterns = answers("llama", "patterns", Written::Peft, |adapters| adapters);
        assert_eq!(serving(&patterns), ["PEFT", "vLLM", "mistral.rs"]);
        let subset = answers("llama", "subset", Written::Peft, |adapters| adapters);
        assert!(of(&subset, "TGI, LoRAX").note.contains("gate_proj, o_proj, q_proj"), "{subset:?}");
    }

    #[test]
    fn an_answer_says_what_it_rests_on() {
        let as_peft = answers("llama", "plain", Written::Peft, |adapters| adapters);
        for (server, version) in [("PEFT", "0.21.2"), ("vLLM", "0.32.0")] {
            let checked = &of(&as_peft, server).checked;
            assert!(checked.starts_with("tested with") && checked.contains(version), "{checked}");
        }
        assert_eq!(of(&as_peft, "SGLang").checked, "from the source code of 0.5.23");
        assert_eq!(of(&as_peft, "Ollama").checked, "from the source code");
        let neox = answers("gpt_neox", "plain", Written::Peft, |adapters| adapters);
        assert!(of(&neox, "vLLM").checked.starts_with("from the source code"));
        // The scripts exist.
        for program in [PEFT, VLLM, MISTRAL_RS, LLAMA_CPP] {
            let (_, script, _) = program.tested.unwrap();
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(script).exists(), "{script}");
        }
        assert_eq!(of_naming(Naming::Vllm, &as_peft).unwrap().server, "vLLM");
    }

    #[test]
    fn attention_that_sglang_cannot_stack_is_told() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        let serves = |modules: &[(&str, usize)]| {
            let loras = modules.iter().map(|(module, rank)| {
                let module = format!("model.layers.0.self_attn.{module}");
                Lora::new(&LinearSpec::new(module, 32, 48), *rank, *rank as f64, 1.0)
            });
            let adapters = Adapters::zeros(loras).unwrap();
            of(&verdicts(Written::Peft, &adapters, &spec, &json!({})).unwrap(), "SGLang").serves
        };
        assert_eq!(serves(&[("q_proj", 4), ("v_proj", 4)]), Serves::Yes);
        assert_eq!(serves(&[("q_proj", 4), ("k_proj", 4), ("v_proj", 4)]), Serves::Yes);
        assert_eq!(serves(&[("o_proj", 4)]), Serves::Yes);
        assert_eq!(serves(&[("q_proj", 4)]), Serves::No);
        assert_eq!(serves(&[("k_proj", 4), ("v_proj", 4)]), Serves::No);
    }

    #[test]
    fn ranks_heads_and_bases_have_their_limits() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        let with = |module: &str, rank: usize, base: Value| {
            let lora = Lora::new(&LinearSpec::new(module.into(), 32, 48), rank, 1.5, 1.5 / rank as f64);
            let adapters = Adapters::zeros(vec![lora]).unwrap();
            let tied = DecoderSpec { head: None, ..spec.clone() };
            [Written::Peft, Written::Gguf].map(|written| verdicts(written, &adapters, &tied, &base).unwrap())
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
