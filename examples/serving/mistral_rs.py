"""Serves an adapter with mistral.rs (package mistralrs), and compares its greedy text with dpo-lora's.

    pip install mistralrs numpy safetensors
    python examples/serving/mistral_rs.py [--binary target/release/dpo-lora] [--base DIR --adapter DIR]

The cases are the quickstart's adapter, the same with rsLoRA and with an alpha_pattern, tiny random models of Qwen 2, Qwen 3 and Mistral, and a tiny Llama with
grouped queries: plain, with rsLoRA, and with rank and alpha patterns. Its Llama takes head_dim to be hidden_size / heads, so that one is the Mistral with Llama's config. mistral.rs wants `rope_theta` at the top of the base's config.json, where transformers 5 writes `rope_parameters` alone: the script
puts it there in a copy. On the command line: mistralrs serve -m BASE --lora name=ADAPTER
"""
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
from mistralrs import CompletionRequest, LoraAdapter, ModelDType, Runner, Which
from safetensors import safe_open
from safetensors.numpy import save_file

import common


FAMILIES = {name: common.fixture(name) for name in ("qwen2", "qwen3", "mistral")}


RANKS = {r"layers\.0\.self_attn\.q_proj": 3, "q_proj": 2, r"layers\.\d+\.mlp\.(up|down)_proj": 5}


def edit(file, change):
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def adapter_with_ranks(base, adapter):
    """An adapter of random numbers whose modules differ in rank and alpha."""
    rng, tensors, leaves = np.random.default_rng(5), {}, ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    with safe_open(base / "model.safetensors", "np") as source:
        for name in source.keys():
            module = name.removesuffix(".weight")
            if module.split(".")[-1] in leaves:
                rank = next((rank for key, rank in RANKS.items() if re.match(rf"(.*\.)?({key})$", module)), 4)
                outputs, inputs = source.get_slice(name).get_shape()
                tensors[f"base_model.model.{module}.lora_A.weight"] = rng.standard_normal((rank, inputs), np.float32) * 0.2
                tensors[f"base_model.model.{module}.lora_B.weight"] = rng.standard_normal((outputs, rank), np.float32) * 0.2
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    config = dict(peft_type="LORA", task_type="CAUSAL_LM", r=4, lora_alpha=6, rank_pattern=RANKS, alpha_pattern={"v_proj": 3}, target_modules=leaves, bias="none")
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def llama(place):
    """A tiny Llama of the Mistral's weights, and its adapters."""
    base, (source, plain) = place / "llama", common.fixture("mistral")
    shutil.copytree(source, base, ignore=shutil.ignore_patterns("adapters"))
    for file in base.glob("tokenizer*.json"):  # mistral.rs ends a text at this token by its name, whatever the model calls its end
        file.write_text(file.read_text().replace("<|im_end|>", "<|turn_end|>"))
    config = json.loads((base / "config.json").read_text())
    config.pop("sliding_window")
    (base / "config.json").write_text(json.dumps(config | dict(model_type="llama", architectures=["LlamaForCausalLM"])))
    shutil.copytree(plain, place / "rslora")
    edit(place / "rslora" / "adapter_config.json", dict(use_rslora=True))
    adapter_with_ranks(base, place / "ranks")
    return {"llama": (base, plain), "llama-rslora": (base, place / "rslora"), "llama-ranks": (base, place / "ranks")}


def with_rope_theta(base, place):
    """The base, or a copy whose config.json has the old names too."""
    config = json.loads((base / "config.json").read_text())
    parameters = dict(config.get("rope_parameters") or {})
    if "rope_theta" in config or "rope_theta" not in parameters:
        return base
    config["rope_theta"] = parameters.pop("rope_theta")
    if parameters.get("rope_type", "default") != "default":
        config["rope_scaling"] = parameters
    shutil.copytree(base, place / "base", ignore=shutil.ignore_patterns("adapters"))
    (place / "base" / "config.json").write_text(json.dumps(config))
    return place / "base"


def texts(runner, adapter):
    request = lambda prompt: CompletionRequest(model="default", prompt=prompt, max_tokens=common.NEW_TOKENS, temperature=0.0, adapter=adapter)
    return [runner.send_completion_request(request(prompt)).choices[0].text for prompt in common.PROMPTS]


def check(name, base, adapter, args, place):
    lora = LoraAdapter("mine", str(adapter))
    runner = Runner(Which.Lora(model_id=str(with_rope_theta(base, place)), adapters=[lora], dtype=ModelDType.F32))
    plain = lambda text: text.replace("\ufffd", "").strip()
    same = lambda ours, theirs: sum(plain(a) == plain(b) for a, b in zip(ours, theirs))
    on, off = texts(runner, "mine"), texts(runner, None)
    count = same(common.greedy(args.binary, base, adapter), on), same(common.greedy(args.binary, base), off)
    print(f"{name:12} same greedy text of {len(common.PROMPTS)}: adapter {count[0]}, base {count[1]}; adapter and base differ in {len(on) - same(on, off)}", flush=True)
    assert on != off and min(count) == len(common.PROMPTS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        common.check_all(__doc__, FAMILIES | llama(Path(made)), check)
