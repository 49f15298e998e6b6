"""What each configuration class of transformers knows: its fields with defaults and types, its other names for them, the old keys that it still reads.

    python tests/parity/family_defaults.py           # writes src/model/families/defaults.json
    python tests/parity/family_defaults.py --check   # prints every difference with it, and fails if there is one

An entry is `{defaults, types, attribute_map, extra, rope, sub_configs, notes}`; a key that would be empty is left out.
`defaults`: every field of the class, inherited ones too. A field that is missing from config.json has this value before `__post_init__` derives others.
`types`: what a field's value must be; transformers refuses all else (an integer is no float). A field that is not named takes anything.
`attribute_map`: other name → field. Where a file has both names, the other name wins: it is set last.
`extra`: keys that are no field, but which the class or the model still reads, with the value when missing (null: derived or nothing).
`rope`: `theta` when no file says one, `partial_rotary_factor` likewise, `ignore_keys` that are allowed inside rope_parameters without a warning.
`sub_configs`: `text_config`'s class: `fixed` is the class whatever its own model_type says, `default` the one where it says none; `init` its values when it is absent.
`_common` holds `ignored`: keys of generation that every class drops, and `accepted`: others that every class reads and that change no log-prob.
"""
import dataclasses
import importlib
import inspect
import json
import sys
import types
import typing
from pathlib import Path

import transformers
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

FILE = Path(__file__).resolve().parents[2] / "src" / "model" / "families" / "defaults.json"

MODEL_TYPES = """
    apertus arcee bloom cohere cohere2 ernie4_5 exaone4 falcon gemma gemma2 gemma3 gemma3_text glm glm4 gpt2 gpt_bigcode gpt_neox gptj granite helium
    hunyuan_v1_dense llama ministral3 mistral mistral3 nemotron olmo olmo2 olmo3 opt phi3 qwen2 qwen2_5_vl qwen2_5_vl_text qwen3 qwen3_vl qwen3_vl_text
    seed_oss smollm3 stablelm starcoder2
""".split()

# what `__post_init__` and `convert_rope_params_to_dict` read besides the fields: from their sources, and held to them by `check_extra`
EXTRA = {
    "bloom": {"n_embed": None},
    "cohere2": {"sliding_window_pattern": 4},
    "falcon": {"n_embed": None},
    "gemma3_text": {"rope_local_base_freq": 10000.0, "sliding_window_pattern": 6},
    "gpt_neox": {"rotary_emb_base": 10000.0, "rotary_pct": 0.25},
    "qwen2_5_vl_text": {"tie_word_embeddings": False},  # the wrapper reads it here too
}
NOTES = {
    "apertus": "rope_parameters: llama3 with theta 12e6, factor 8, original 8192, 1 and 4 when the file has none (nor rope_scaling). hidden_act is xielu, whose parameters are tensors",
    "bloom": "n_embed, where given, wins over hidden_size; no positions, alibi",
    "cohere2": "rotary only on sliding layers. layer_types when missing: every sliding_window_pattern-th layer is full",
    "exaone4": "layer_types when missing: every sliding_window_pattern-th layer is full; a sliding_window of null sets the pattern to 0, which then divides by zero",
    "falcon": "n_embed, where given, wins over hidden_size; num_kv_heads null is num_attention_heads; ffn_hidden_size null is 4 hidden; head_dim is a read-only property",
    "gemma": "hidden_act gelu means gelu_pytorch_tanh",
    "gemma2": "layer_types when missing: every second layer is full",
    "gemma3_text": "rope_scaling belongs to the full layers alone, and counts only if it says rope_type, not type. use_bidirectional_attention turns sliding_window into sliding_window // 2 + 1. layer_types when missing: every sliding_window_pattern-th layer is full",
    "glm": "partial_rotary_factor 0.5 when the file has none",
    "glm4": "partial_rotary_factor 0.5 when the file has none",
    "gpt_bigcode": "num_key_value_heads is 1 with multi_query, else n_head",
    "gpt_neox": "partial_rotary_factor at top level is not read: rotary_pct, or rope_parameters",
    "hunyuan_v1_dense": "rope type dynamic with an alpha: the base is theta * alpha ** (d / (d - 2)), whatever the length",
    "ministral3": "rope_parameters when the file has none: yarn, theta 1e6, factor 16, original 16384, beta 32 and 1, mscale and mscale_all_dim 1, llama_4_scaling_beta 0.1",
    "nemotron": "partial_rotary_factor 0.5 when the file has none; num_key_value_heads null is an error",
    "olmo3": "rope_scaling belongs to the full layers alone, and counts only if it says rope_type, not type; a top-level rope_theta is taken by the full layers, the sliding ones then have the default. layer_types when missing: every fourth layer is full",
    "opt": "word_embed_proj_dim null is hidden_size; positions start at 2",
    "phi3": "rope types su and yarn mean longrope; original_max_position_embeddings at top level (its default too) wins over the one in rope_parameters",
    "qwen2": "sliding_window is null without use_sliding_window. layer_types when missing: sliding from max_window_layers on",
    "qwen2_5_vl": "text keys may stand at top level where text_config is missing; text_config.tie_word_embeddings true ties too",
    "qwen2_5_vl_text": "sliding_window is null without use_sliding_window. layer_types when missing: sliding from max_window_layers on; rope type mrope means default",
    "qwen3": "sliding_window is null without use_sliding_window. layer_types when missing: sliding from max_window_layers on",
    "smollm3": "no_rope_layers when missing: every no_rope_layer_interval-th layer has none. layer_types when missing: sliding where there is no rotation, with use_sliding_window",
    "stablelm": "partial_rotary_factor 0.25 when the file has none",
}
PARTIAL = {"glm": 0.5, "glm4": 0.5, "gpt_neox": 0.25, "nemotron": 0.5, "stablelm": 0.25}
ACCEPTED = """
    _commit_hash _name_or_path _sliding_window_pattern experts_implementation attn_implementation auto_map name_or_path num_labels output_attentions torch_dtype transformers_weights
""".split()


def type_name(annotation):
    """As transformers checks it: null, and otherwise a part of bool, int, float, string, list, object; None where it checks nothing."""
    if isinstance(annotation, str) or annotation is typing.Any:
        return None
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        parts = [type_name(part) for part in typing.get_args(annotation)]
        return None if None in parts else "|".join(sorted(set("|".join(parts).split("|"))))
    if origin is list:
        inner = [type_name(part) for part in typing.get_args(annotation)]
        return f"list[{inner[0]}]" if inner else "list"
    if origin is tuple:
        return "tuple"  # no JSON value is one
    if origin is dict:
        return "object"
    if isinstance(annotation, type) and issubclass(annotation, (dict, PreTrainedConfig)):
        return "object"
    return {type(None): "null", bool: "bool", int: "int", float: "float", str: "string"}[annotation]


def plain(value):
    return list(value) if isinstance(value, tuple) else value


def sub_config(spec):
    fixed = spec.config_class is not AutoConfig
    kind = dict(fixed=spec.config_class.model_type) if fixed else dict(default=spec.model_type)
    return kind | ({"init": spec.init_kwargs} if spec.init_kwargs else {})


def entry(model_type):
    cls = CONFIG_MAPPING[model_type]
    fields = dataclasses.fields(cls)
    assert all(field.default is not dataclasses.MISSING for field in fields), model_type
    has_rope = any(field.name == "rope_parameters" for field in fields)
    extra = dict(EXTRA.get(model_type, {}), **({"head_dim": None} if reads_head_dim(cls, fields) else {}))
    if has_rope:
        extra |= dict(rope_scaling=None, rope_theta=None)
        if model_type not in ("gpt_neox", "gemma3_text", "olmo3"):
            extra["partial_rotary_factor"] = PARTIAL.get(model_type)
    rope = {"theta": cls.default_theta, "ignore_keys": sorted(cls.ignore_keys_at_rope_validation)} if has_rope else {}
    if model_type in PARTIAL:
        rope["partial_rotary_factor"] = PARTIAL[model_type]
    made = dict(
        defaults={field.name: plain(field.default) for field in fields},
        types={field.name: type_name(field.type) for field in fields if type_name(field.type)},
        attribute_map=cls.attribute_map,
        extra=dict(sorted(extra.items())),
        rope={key: value for key, value in rope.items() if value != []},
        sub_configs={"text_config": sub_config(cls.sub_configs_defaults["text_config"])} if "text_config" in cls.sub_configs_defaults else {},
        notes=NOTES.get(model_type, ""),
    )
    check_extra(model_type, cls, made)
    return {key: value for key, value in made.items() if value}


def reads_head_dim(cls, fields):
    """Models read a `head_dim` of the file although their class has no such field; null: hidden_size / num_attention_heads."""
    model = importlib.import_module(cls.__module__.replace(".configuration_", ".modeling_"))
    declared = "head_dim" in {field.name for field in fields} or isinstance(inspect.getattr_static(cls, "head_dim", None), property)
    return not declared and "text_config" not in cls.sub_configs_defaults and ('config, "head_dim"' in inspect.getsource(model) or "config.head_dim" in inspect.getsource(model))


def check_extra(model_type, cls, made):
    """Every key that the class takes from the file's other keys is in `extra`, or is read for all."""
    source = inspect.getsource(cls)
    for key in [word for call in ("kwargs.pop(", "kwargs.get(", "kwargs.setdefault(") for word in source.split(call)[1:]]:
        name = key.split('"')[1] if key.startswith('"') else None
        assert name is None or name in made["extra"] or name in ("torch_dtype", "dtype"), (model_type, name)
    assert not set(made["extra"]) & set(made["defaults"]), model_type


def everything():
    ignored = [key for key in GenerationConfig._get_default_generation_params() if key != "use_cache"]
    common = dict(
        defaults={field.name: plain(field.default) for field in dataclasses.fields(PreTrainedConfig)},
        ignored=sorted(ignored), accepted=ACCEPTED, transformers=transformers.__version__,
    )
    return {"_common": common} | {model_type: entry(model_type) for model_type in MODEL_TYPES}


def text(value):
    """An entry's parts a line each."""
    body = []
    for name, made in value.items():
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(part)}" for key, part in made.items())
        body.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(body) + "\n}\n"


def differences(path, committed, computed):
    if isinstance(committed, dict) and isinstance(computed, dict):
        return [line for key in sorted(set(committed) | set(computed)) for line in differences(f"{path}.{key}".lstrip("."), committed.get(key, "missing"), computed.get(key, "missing"))]
    return [] if committed == computed and type(committed) is type(computed) else [f"{path}: {committed!r} is committed, {computed!r} is transformers'"]


def main():
    computed = json.loads(text(everything()))
    if sys.argv[1:] == ["--check"]:
        found = differences("", json.loads(FILE.read_text()), computed)
        print("\n".join(found) or f"{FILE.name}: as transformers {transformers.__version__} has it, {len(computed) - 1} classes")
        sys.exit(bool(found))
    FILE.write_text(text(computed))


if __name__ == "__main__":
    main()
