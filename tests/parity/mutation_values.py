"""Which other values a key of config.json is tried with, and which keys are added to a file that has them not."""
import json

from families import WRAPPERS
from family_defaults import FILE
from models import MODELS

DEFAULTS = json.loads(FILE.read_text())
ACTIVATIONS = ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "silu", "quick_gelu", "surprise"]
S, F = "sliding_attention", "full_attention"

# what to put where a file has null, or nothing: values that would matter if they were read
VALUES = {
    "activation": "relu", "activation_function": "relu", "architectures": ["OtherForCausalLM"], "attention_multiplier": 0.3, "attn_logit_softcapping": 2.0, "clip_qkv": 0.5, "dtype": "bfloat16",
    "embedding_multiplier": 2.0, "ffn_dim": 24, "ffn_hidden_size": 24, "final_logit_softcapping": 3.0, "head_dim": 4, "hidden_act": "relu", "hidden_activation": "relu", "hidden_size": 16,
    "id2label": {"0": "no", "1": "maybe", "2": "yes"}, "intermediate_size": 24, "label2id": {"no": 0}, "layer_norm_eps": 0.1, "layer_norm_epsilon": 0.1, "layer_types": None, "logit_scale": 0.3,
    "logits_scaling": 2.0, "max_position_embeddings": 24, "max_window_layers": 1, "n_embd": 16, "n_embed": 16, "n_head": 2, "n_inner": 24, "n_layer": 1, "n_positions": 24,
    "no_rope_layer_interval": 2, "no_rope_layers": [0, 1, 0, 1], "norm_eps": 0.1, "norm_epsilon": 0.1, "num_attention_heads": 2, "num_hidden_layers": 1, "num_key_value_heads": 1, "num_kv_heads": 1,
    "num_ln_in_parallel_attn": 1, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5, "problem_type": "regression", "query_pre_attn_scalar": 64, "residual_multiplier": 0.5,
    "rms_norm_eps": 0.1, "rope_local_base_freq": 100.0, "rope_theta": 77.0, "rotary_dim": 4, "rotary_emb_base": 77.0, "rotary_pct": 0.5, "sliding_window": 4, "sliding_window_pattern": 2,
    "summary_activation": "tanh", "word_embed_proj_dim": 16, "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 77.0},
}
# no field of any class here; most are of files on the hub
STRANGERS = {
    "surprise_factor": 2.0, "alibi_bias_max": 8, "attn_type": "linear",
    "auto_map": {"AutoModelForCausalLM": "modeling_other.Other"}, "cross_attention_hidden_size": 32, "final_layernorm": False, "hidden_dropout_prob": 0.1, "max_length": 5, "n_ctx": 24, "num_experts": 4,
    "num_local_experts": 4, "num_nextn_predict_layers": 1, "mtp_num_layers": 1, "pruned_heads": {"0": [1]}, "qk_norm": True, "qkv_bias": True,
    "rope_interleaved": True, "rope_ratio": 4.0, "seq_length": 24, "tie_weights": True, "torch_dtype": "float16", "use_alibi": True, "use_logn_attn": True, "unk_token_id": 3,
    "num_labels": 3, "tie_encoder_decoder": True, "bos_token": "<s>", "use_mup": True, "mup_width_multiplier": 2.0,
    "add_bos_token": True, "parallel_residual": True, "multi_query_attention": True, "interleaved": True,
}
# these do something to most
ALONE = {
    "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}, "per_layer_config": {"0": {"num_attention_heads": 2}}, "temperature": 2.0,
    "output_attentions": True, "output_hidden_states": True, "is_causal": False, "transformers_weights": "other.safetensors", "_attn_implementation": "sdpa", "return_dict": False,
}
# what is added inside rope_parameters
ROPE = {"mscale": 0.7, "mscale_all_dim": 0.3, "attention_factor": 1.5, "truncate": False, "factor": 4.0, "beta_fast": 8.0, "beta_slow": 3.0, "type": "linear", "partial_rotary_factor": 0.5,
        "original_max_position_embeddings": 32, "mrope_section": [1, 1, 2], "llama_4_scaling_beta": 0.5, "low_freq_factor": 2.0, "surprise_factor": 2.0, "rope_theta": 77.0}
OLD_SCALINGS = [
    {"type": "linear", "factor": 4.0}, {"rope_type": "dynamic", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 0.3},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    {"type": "longrope", "short_factor": [1.0, 2.0, 3.0, 4.0], "long_factor": [2.0, 3.0, 5.0, 9.0]}, {"type": "mrope", "mrope_section": [1, 1, 2]}, {"type": "su", "factor": 2.0},
    {"rope_theta": 77.0}, {"factor": 4.0}, {"rope_type": "surprise", "factor": 2.0}, {},
]
SIMILAR = {
    "llama": ["mistral", "qwen2", "arcee"], "mistral": ["llama", "ministral3", "qwen2"], "qwen2": ["llama", "qwen3", "mistral"], "qwen3": ["qwen2", "llama"], "gemma": ["gemma2", "llama"],
    "gemma2": ["gemma", "gemma3_text"], "gemma3_text": ["gemma2"], "olmo": ["llama", "olmo2"], "olmo2": ["olmo", "olmo3"], "olmo3": ["olmo2"], "cohere": ["cohere2", "llama"],
    "cohere2": ["cohere"], "glm": ["glm4"], "glm4": ["glm"], "gpt2": ["gpt_bigcode", "gptj"], "gpt_bigcode": ["gpt2"], "phi3": ["llama"], "smollm3": ["llama"], "granite": ["llama"], "ministral3": ["mistral"],
    "gemma3": ["gemma3_text", "mistral3"], "qwen2_5_vl": ["qwen3_vl", "qwen2"], "qwen3_vl": ["qwen2_5_vl", "qwen3"], "seed_oss": ["qwen2"], "ernie4_5": ["llama"], "helium": ["glm", "llama"],
}


def first_of_family(name):
    """Only the first model of each class is tried with everything."""
    return name == next(other for other in MODELS if MODELS[other][0] == MODELS[name][0])


def others(key, value):
    """Other values, plausible ones and those of another type."""
    if key == "model_type":
        return SIMILAR.get(value, ["llama"]) + ["surprise", None]
    if key in ("rope_type", "type"):
        return [kind for kind in ("default", "linear", "dynamic", "surprise", None) if kind != value]
    if key == "dtype":
        return ["bfloat16", "surprise", None]
    if isinstance(value, bool):
        return [not value, None, int(not value)]
    if isinstance(value, int):
        return [value * 2 or 1, value - 1, value + 0.5, None] if not key.endswith(("_token_id", "_token_index")) else [value + 1, None]
    if isinstance(value, float):
        return [value * 2 or 0.5, 1, -value or -0.5, None]
    if isinstance(value, str):
        activations = [other for other in ACTIVATIONS if other != value]
        return [*(activations if value in ACTIVATIONS or "act" in key else ["surprise"]), None]
    if isinstance(value, list):
        made = lists(value)
        return [other for i, other in enumerate(made) if other not in made[:i]] + [None]
    if isinstance(value, dict):
        return [{}, None]
    made = VALUES.get(key, {"eos_token_id": 1, "pad_token_id": 1, "bos_token_id": 1}.get(key, True))
    return [made] if made is not None else []


def lists(value):
    shorter = [value[:-1], []]
    if all(isinstance(item, str) for item in value):
        return shorter + ([[{S: F, F: S}.get(item, item) for item in value], ["surprise"] * len(value), ["attention"] * len(value)] if F in value or S in value else [["OtherForCausalLM"]])
    return shorter + [[1 - item if item in (0, 1) and isinstance(item, int) else item * 2 for item in value]]


def scope_of(config):
    return ("text_config.", config["text_config"]) if config["model_type"] in WRAPPERS else ("", config)


ABOUT_ROTATION = ("partial_rotary_factor", "original_max_position_embeddings", "rope_local_base_freq", "rotary_pct", "layer_types", "no_rope_layers", "head_dim")


def about_rotation(config):
    """Keys about the rotation and the layers that this file lacks, and old ones beside the new."""
    scope, part = scope_of(config)
    layers = part.get("num_hidden_layers") or part.get("n_layer")
    values = {"layer_types": [S] * layers, "no_rope_layers": [0] * layers}
    yield from ((f"{scope}rope_scaling", scaling) for scaling in OLD_SCALINGS)
    yield from ((f"{scope}rope_theta", value) for value in (77.0, None))
    parameters = part.get("rope_parameters") or {}
    kinds = [f"{kind}." for kind in (F, S) if kind in parameters] or [""]
    if parameters:
        yield from ((f"{scope}rope_parameters.{kind}{key}", value) for kind in kinds for key, value in ROPE.items() if key not in (parameters.get(kind[:-1]) or parameters))
    yield from ((f"{scope}{key}", values.get(key, VALUES.get(key))) for key in ABOUT_ROTATION if key not in part)


def alone(config):
    scope, part = scope_of(config)
    yield from ((f"{scope}{key}", value) for key, value in ALONE.items() if key not in part)
    if scope:
        yield from ALONE.items()


def added(config):
    """Every other key that some class knows and this file lacks, and keys that none knows."""
    scope, part = scope_of(config)
    done = {*ABOUT_ROTATION, "rope_scaling", "rope_theta", "text_config", "vision_config", "transformers_version", "torch_dtype"}
    known = {key: default for entry in DEFAULTS.values() for key, default in [*entry.get("defaults", {}).items(), *entry.get("extra", {}).items()]}
    known |= {alias: None for entry in DEFAULTS.values() for alias in entry.get("attribute_map", {}) if alias not in known}
    for key, default in sorted(known.items()):
        if key not in part and key not in done and key not in ALONE:
            yield f"{scope}{key}", VALUES[key] if key in VALUES else 3 if key.endswith(("_token_id", "_token_index")) else others(key, default)[0]
    yield from ((f"{scope}{key}", value) for key, value in STRANGERS.items() if key not in known and key not in part)
    if scope:
        yield from (("num_hidden_layers", 1), ("hidden_size", 16), ("rope_theta", 77.0), ("surprise_factor", 2.0), ("vision_config.hidden_size", 8), ("sliding_window", 4))
