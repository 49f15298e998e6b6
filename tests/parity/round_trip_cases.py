"""Merged models that once went wrong: with code of its own, with attention factors in GGUF, with a head that is stored beside a tied embedding. Run by round_trip.py."""
import json
import os
import shutil
import subprocess

import torch
from gguf_adapter import PROMPTS, llama_cpp_logps, peft_logps
from transformers import AutoModelForCausalLM

from round_trip import BOUND, FIXTURES

CASES = FIXTURES / "cases"
# what stands in the place of yarn's own attention factor
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
ATTENTION = {
    "its own": {}, "attention_factor": dict(attention_factor=1.138629436111989), "attention_factor 0.7": dict(attention_factor=0.7), "mscale 1, 1": dict(mscale=1.0, mscale_all_dim=1.0),
    "mscale 1.2, 0.5": dict(mscale=1.2, mscale_all_dim=0.5), "mscale 0.8, 0": dict(mscale=0.8, mscale_all_dim=0.0),
}
UNTOLD = dict(beta_fast=16.0, beta_slow=2.0)  # llama.cpp takes no such key for llama


def apart(a, b):
    return (a - b).abs().nan_to_num(torch.inf).max().item()


def changed(config, **fields):
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))


def with_code(run, place):
    """The merged directory has the base's code, and transformers runs it."""
    case, base, out = CASES / "merge-auto-map", place / "code", place / "with_code"
    shutil.copytree(case / "base", base)
    (base / "modeling_tiny.py").write_text("from transformers import Qwen2ForCausalLM\nfrom .configuration_tiny import TinyConfig\n\n\n"
                                           "class TinyForCausalLM(Qwen2ForCausalLM):\n    config_class = TinyConfig\n")
    auto_map = dict(AutoConfig="configuration_tiny.TinyConfig", AutoModelForCausalLM="modeling_tiny.TinyForCausalLM")
    changed(base / "config.json", auto_map=auto_map)
    run("merge", "--base", base, "--adapter", case / "adapter", "--dtype", "f32", "--output", out)
    prompts, PROMPTS[:] = list(PROMPTS), [[token % 203 for token in ids] for ids in PROMPTS]
    try:
        merged = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True, dtype=torch.float32, attn_implementation="eager").eval()
        assert (type(merged).__name__, type(merged.config).__name__) == ("TinyForCausalLM", "TinyConfig"), type(merged)
        with torch.no_grad():
            found = torch.stack([merged(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in PROMPTS])
        off, on = peft_logps(case / "base", case / "adapter")
        return dict(error=apart(found, on), adapter=apart(off, on))
    finally:
        PROMPTS[:] = prompts


def refused(run, base, adapter, out, *words):
    ran = subprocess.run([str(part) for part in (run.binary, "merge", "--base", base, "--adapter", adapter, "--format", "gguf", "--output", out)], capture_output=True, text=True)
    assert ran.returncode and all(word in ran.stderr for word in words) and not out.exists(), ran.stderr


def in_llama_cpp(run, base, adapter, out):
    """Error against PEFT, that of a merge with weight 0 against the base, what the adapter does."""
    off, on = peft_logps(base, adapter)
    found = {}
    for weight in (0, 1):
        file = out.with_name(f"{out.name}-{weight}.gguf")
        run("merge", "--base", base, "--adapter", adapter, "--weights", weight, "--dtype", "f32", "--format", "gguf", "--output", file)
        found[weight] = llama_cpp_logps(file, None, on.shape[1])
    return dict(error=apart(found[1], on), base=apart(found[0], off), adapter=apart(off, on))


def yarn(run, place):
    """Yarn's attention factor, however the base says it."""
    case, rows = CASES / "gguf-yarn-attention-factor", {}
    for number, (name, settings) in enumerate(ATTENTION.items()):
        base = place / f"yarn-{number}"
        shutil.copytree(case / "base", base)
        changed(base / "config.json", rope_parameters=YARN | settings)
        rows[f"yarn, {name}"] = in_llama_cpp(run, base, case / "a", place / f"yarn-{number}")
    changed(base / "config.json", rope_parameters=YARN | UNTOLD)
    refused(run, base, case / "a", place / "refused.gguf", "rope_scaling.beta_fast 16")
    return rows


def stored_head(run, place):
    """Refused; with --force it is the file that llama.cpp's converter makes of the merged directory, whose head is the stored one."""
    case, out = CASES / "tied-head-stored-gguf", place / "tied.gguf"
    refused(run, case / "base", case / "a", place / "refused.gguf", "tie_word_embeddings", "lm_head")
    run("merge", "--base", case / "base", "--adapter", case / "a", "--format", "gguf", "--dtype", "f32", "--force", "--output", out)
    expected = json.loads((case / "expected.json").read_text())
    prompts, PROMPTS[:] = list(PROMPTS), expected["prompts"]
    try:
        want = torch.tensor(expected["next_token_logps"])
        return dict(error=apart(llama_cpp_logps(out, None, want.shape[1]), want))
    finally:
        PROMPTS[:] = prompts


def check(run, place):
    """Prints a line a case; what is wrong."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    prompts, PROMPTS[:] = list(PROMPTS), json.loads((CASES / "gguf-yarn-attention-factor" / "expected.json").read_text())["prompts"]
    wrong = []
    try:
        rows = {"code of its own": with_code(run, place), "tied head that is stored": stored_head(run, place)} | yarn(run, place)
    finally:
        PROMPTS[:] = prompts
    for name, row in rows.items():
        print(f"{name:28}" + "  ".join(f"{key} {value:.1e}" for key, value in row.items()), flush=True)
        wrong += [f"{name}: {key} is off by {row[key]}" for key in ("error", "base") if row.get(key, 0.0) > BOUND]
    return wrong
