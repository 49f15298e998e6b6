//! Where a model keeps its text decoder, and so how adapters name its modules.
//!
//! | | decoder | head |
//! |---|---|---|
//! | a text model | `model.layers.0...` | `lm_head` |
//! | a model that also sees or hears, transformers 4.52 and later | `model.language_model.layers.0...` | `lm_head` |
//! | the same before, and inside vLLM | `language_model.model.layers.0...` | `language_model.lm_head` |

/// Parts that wrappers add to the paths of modules: torch.compile, FSDP, activation checkpointing.
const WRAPPERS: &[&str] = &["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// The decoder in a model with images or audio.
const INSIDE: &str = "model.language_model.";
/// The same in older versions of transformers, and inside vLLM.
const INSIDE_OLD: &str = "language_model.model.";
/// The decoder of a text model.
const TEXT: &str = "model.";
/// The head in older versions of transformers, and inside vLLM.
const HEAD_OLD: &str = "language_model.lm_head";
const HEAD: &str = "lm_head";

/// A module's path, or a pattern of such paths, without the parts that wrappers add.
pub(super) fn unwrapped(path: &str) -> String {
    WRAPPERS.iter().fold(path.to_string(), |path, wrapper| {
        path.replace(&format!("{wrapper}."), "").replace(&format!("{wrapper}\\."), "")
    })
}

/// The name of a module in a text model.
pub(super) fn text_path(module: &str) -> String {
    match inside(module) {
        Some(rest) => format!("{TEXT}{rest}"),
        None if module == HEAD_OLD => HEAD.into(),
        None => module.into(),
    }
}

/// All names of a module, its own name first.
pub(super) fn aliases(module: &str) -> Vec<String> {
    let text = text_path(module);
    let mut all = vec![module.to_string()];
    if let Some(rest) = text.strip_prefix(TEXT) {
        all.extend([text.clone(), format!("{INSIDE}{rest}"), format!("{INSIDE_OLD}{rest}")]);
    } else if text == HEAD {
        all.extend([text, HEAD_OLD.into()]);
    }
    let own = all[0].clone();
    let mut first = true;
    all.retain(|name| std::mem::take(&mut first) || *name != own);
    all
}

/// Returns the name that a decoder with these modules gives a module, whatever the layout of the given name.
pub(super) fn module_of(own: &str, known: impl Fn(&str) -> bool) -> Option<String> {
    aliases(own).into_iter().find(|name| known(name))
}

/// Whether a module belongs to the decoder of a model with images or audio.
pub(super) fn is_inside(module: &str) -> bool {
    module.starts_with(INSIDE)
}

/// Whether a module is in the same place as the others: all inside a model with images or audio, or none.
pub(super) fn is_like<'a>(module: &str, mut others: impl Iterator<Item = &'a str>) -> bool {
    let place = |name: &str| (name.starts_with(INSIDE), name.starts_with(INSIDE_OLD));
    others.next().is_some_and(|other| place(other) == place(module))
}

fn inside(module: &str) -> Option<&str> {
    module.strip_prefix(INSIDE).or_else(|| module.strip_prefix(INSIDE_OLD))
}

/// Programs whose names of modules an adapter can be written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// transformers 5, and PEFT on it.
    Transformers,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
}

/// The `model_type` of bases whose class in vLLM 0.32 maps the names of transformers 5 to its own. The others need
/// vLLM's own names, which no class maps further.
const MAPPED_BY_VLLM: &[&str] =
    &["gemma3", "gemma3n", "gemma4", "llava", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl"];

/// The name that a program gives a module of a base with this `model_type` (at the top of its `config.json`).
///
/// A text model's modules have one name everywhere. In models that also see or hear:
/// - transformers 5 and PEFT: `model.language_model.layers...`; PEFT ignores tensors of other names.
/// - vLLM 0.32 (`vllm/lora/utils.py`, `parse_fine_tuned_lora_name`): the class's `hf_to_vllm_mapper` maps
///   `model.language_model.` to `language_model.model.` and `lm_head.` to `language_model.lm_head.` in `gemma3_mm.py`,
///   `gemma3n_mm.py`, `gemma4_mm.py`, `llava.py`, `mistral3.py`, `qwen2_vl.py`, `qwen2_5_vl.py` and `qwen3_vl.py`. The text
///   model's `model.layers...` is mapped only in some of them; in Gemma 3, LLaVA and Qwen 3 VL such an adapter is accepted but
///   not applied, and the answers are the base's.
/// - SGLang 0.5.23 (`sglang/srt/lora/lora.py`, `_process_weight`; `utils.py`, `get_target_module_name`): a tensor belongs to
///   the layer of `layers.N.` in its name and to the kind of module that its name holds; the part before does not matter.
pub fn named(module: &str, naming: Naming, model_type: &str) -> String {
    if naming != Naming::Vllm || MAPPED_BY_VLLM.contains(&model_type) {
        return module.into();
    }
    match module.strip_prefix(INSIDE) {
        Some(rest) => format!("{INSIDE_OLD}{rest}"),
        None => module.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_is_one_module_of_the_text_model() {
        let text = "model.layers.3.mlp.up_proj";
        for module in
            [text, "model.language_model.layers.3.mlp.up_proj", "language_model.model.layers.3.mlp.up_proj"]
        {
            assert_eq!(text_path(module), text);
            let all = aliases(module);
            assert_eq!(all[0], module);
            assert_eq!(all.len(), 3, "{all:?}");
            assert!(all.contains(&text.to_string()));
        }
        assert_eq!(text_path("language_model.lm_head"), "lm_head");
        assert_eq!(aliases("lm_head"), ["lm_head", "language_model.lm_head"]);
        assert_eq!(aliases("transformer.h.0.attn.c_attn"), ["transformer.h.0.attn.c_attn"]);
        assert_eq!(text_path("model.vision_tower.layers.0.q"), "model.vision_tower.layers.0.q");
    }

    #[test]
    fn wrappers_leave_paths_and_patterns() {
        assert_eq!(unwrapped("_orig_mod.model.layers.0._fsdp_wrapped_module.mlp"), "model.layers.0.mlp");
        assert_eq!(unwrapped(r"^_orig_mod\.model\.layers\.0"), r"^model\.layers\.0");
    }

    #[test]
    fn names_are_those_of_the_serving_class() {
        let inside = "model.language_model.layers.0.self_attn.q_proj";
        let text = "model.layers.0.self_attn.q_proj";
        for naming in [Naming::Transformers, Naming::Vllm, Naming::Sglang] {
            for model_type in ["gemma3", "mistral3", "qwen2_5_vl", "qwen3_vl", "llava"] {
                assert_eq!(named(inside, naming, model_type), inside, "{naming:?} {model_type}");
            }
            for model_type in ["llama", "gemma3_text", "another"] {
                assert_eq!(named(text, naming, model_type), text, "{naming:?} {model_type}");
            }
        }
        assert_eq!(named(inside, Naming::Vllm, "another"), "language_model.model.layers.0.self_attn.q_proj");
        assert_eq!(named(inside, Naming::Transformers, "another"), inside);
    }
}
