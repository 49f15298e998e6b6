"""`config.old.json` beside a model's config.json: the same model as files of before transformers 5 describe it. Held to the same logits."""
import json
import os
import tempfile
from pathlib import Path

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import families
from models import MODELS, OLD_STYLE, load_model

# their layer_types follow from these in old files
PATTERNS = {"gemma2": {}, "gemma3_text": dict(sliding_window_pattern=2), "cohere2": dict(sliding_window_pattern=2), "exaone4": {}, "qwen2": {}, "qwen3": {}, "qwen2_5_vl_text": {}}
# files of the hub that leave out what is the class's default; of Gemma 3's wrapper and of Mistral 3's nothing says whether the embeddings are tied
TERSE = ("gemma3_text", "opt", "falcon")
# transformers 5 is the first to know it: its files say `type` all the same
YOUNG = ("ministral3",)


def old_style(config):
    model_type = config["model_type"]
    config = {key: value for key, value in config.items() if key not in ("_sliding_window_pattern", "dtype")}
    for key in ("text_config", "vision_config"):
        if key in config:
            config[key] = old_style(config[key])
    if model_type in PATTERNS and config.pop("layer_types", None):
        config |= PATTERNS[model_type]
    if "rope_parameters" in config:
        config |= old_rope(model_type, config.pop("rope_parameters"))
    if model_type in TERSE:
        defaults = CONFIG_MAPPING[model_type].default_config_fields()
        config = {key: value for key, value in config.items() if value is None or key not in defaults or value != defaults[key]}
    if model_type == "bloom":
        config["n_embed"] = config.pop("hidden_size")
    if model_type in ("gemma3", "mistral3"):
        config.pop("tie_word_embeddings")
    if model_type == "qwen2_5_vl_vision":
        config["model_type"] = "qwen2_5_vl"
    if model_type == "qwen2_5_vl":  # the text's keys at top level
        text = config.pop("text_config")
        config = {key: value for key, value in text.items() if key != "model_type"} | config
    if "head_dim" in config and config["head_dim"] * config["num_attention_heads"] == config["hidden_size"] and model_type in ("llama", "mistral", "cohere2"):
        config.pop("head_dim")
    return config


def old_rope(model_type, parameters):
    """What stood in the place of rope_parameters."""
    if model_type in YOUNG:
        return dict(rope_parameters=dict({key: value for key, value in parameters.items() if key != "rope_type"}, type=parameters["rope_type"]))
    full = dict(parameters.get("full_attention", parameters))
    old = dict(rope_theta=full.pop("rope_theta"))
    if model_type == "gemma3_text":
        old["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
    if "partial_rotary_factor" in full:
        old["partial_rotary_factor"] = full.pop("partial_rotary_factor")
    if model_type == "gpt_neox":
        old = dict(rotary_emb_base=old["rope_theta"], rotary_pct=old["partial_rotary_factor"])
    if model_type == "phi3":
        full.pop("original_max_position_embeddings", None)  # it stands at top level
    if model_type in ("phi3", "qwen2"):
        full["type"] = full.pop("rope_type")
    if model_type == "qwen2_5_vl_text":
        full = dict(type="mrope", mrope_section=full["mrope_section"])
    plain = full in (dict(rope_type="default"), dict(rope_type="axial"), dict(type="default"))
    return old | dict(rope_scaling=None if plain else full)


def make_old_configs(out, only=()):
    records = json.loads((out / "tokens.json").read_text())[0]["records"]
    for name in only or [name for name in MODELS if name not in families.LATER]:
        path = out / "models" / name
        config = json.loads((path / "config.json").read_text())
        if name in OLD_STYLE or name.endswith("-new"):
            continue
        old = old_style(config) | dict(torch_dtype=config["dtype"], transformers_version="4.46.0")
        text = json.dumps(dict(sorted(old.items())), indent=2) + "\n"
        check(name, path, text, records)
        (path / "config.old.json").write_text(text)


def check(name, path, text, records):
    with tempfile.TemporaryDirectory() as scratch:
        for file in path.glob("*.safetensors"):
            os.symlink(file, Path(scratch) / file.name)
        (Path(scratch) / "config.json").write_text(text)
        now, old = load_model(path), load_model(Path(scratch))
        for record in records:
            ids = torch.tensor([record["prompt_ids"] + record["chosen_ids"]])
            with torch.no_grad():
                assert torch.equal(now(input_ids=ids).logits, old(input_ids=ids).logits), f"{name}: the two styles of config.json disagree"
