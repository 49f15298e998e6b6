"""Serves an adapter with mistral.rs (package mistralrs), and compares its greedy text with dpo-lora's.

    pip install mistralrs
    python examples/serving/mistral_rs.py [--binary target/release/dpo-lora] [--base DIR --adapter DIR]

Its Llama takes head_dim to be hidden_size / heads, so the cases are the quickstart's adapter, the same with rsLoRA and with an alpha_pattern,
and tiny random models of Qwen 2, Qwen 3 and Mistral. mistral.rs wants `rope_theta` at the top of the base's config.json, where transformers 5 writes `rope_parameters` alone: the script
puts it there in a copy. On the command line: mistralrs serve -m BASE --lora name=ADAPTER
"""
import json
import shutil

from mistralrs import CompletionRequest, LoraAdapter, ModelDType, Runner, Which

import common


FAMILIES = {name: common.fixture(name) for name in ("qwen2", "qwen3", "mistral")}


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
    print(f"{name:11} same greedy text of {len(common.PROMPTS)}: adapter {count[0]}, base {count[1]}; adapter and base differ in {len(on) - same(on, off)}", flush=True)
    assert on != off and min(count) == len(common.PROMPTS)


if __name__ == "__main__":
    common.check_all(__doc__, FAMILIES, check)
