"""Holds the config.json of merged models to transformers 4 and 5: the same next-token log-probs from both, and those of base and adapter through PEFT.

    python tests/parity/merged_configs.py target/release/dpo-lora PYTHON4 [CASE...]

Runs in an environment with transformers 5 and peft; PYTHON4 is the interpreter of one with transformers 4.57. Every family's fixture, and rotary scalings
under the names of before and after transformers 5, alone and together.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
MODELS = Path(__file__).parents[1] / "fixtures" / "models"
PROMPTS = [[0, *((7 * i * i + 31 * i + 5) % 300 + 10 for i in range(n))] for n in (1, 7, 40)]
BOUND = 1e-4  # float32 in another order; a wrong setting is off by 0.1 and more

LINEAR = dict(rope_type="linear", factor=2.5)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=0.9, beta_fast=16.0, beta_slow=2.0)
MSCALE = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.2, mscale_all_dim=0.5)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)


def new(settings, theta=20000.0):
    return dict(rope_parameters=dict(settings, rope_theta=theta), rope_scaling=None, rope_theta=None)


def old(settings, theta=20000.0):
    return dict(rope_parameters=None, rope_scaling=settings, rope_theta=theta)


def by_kind(full, theta=50000.0, local=3000.0):
    return dict(rope_parameters=dict(full_attention=dict(full, rope_theta=theta), sliding_attention=dict(rope_type="default", rope_theta=local)), rope_scaling=None, rope_theta=None)


# name → (fixture, fields of config.json that are others; None takes one away)
CASES = {name: (name, {}) for name in ("llama", "llama3", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2", "smollm3", "granite", "stablelm", "gpt2", "gptj", "gpt_neox")}
CASES |= {f"llama {form.__name__} {name}": ("llama", form(settings)) for form in (new, old) for name, settings in
          dict(linear=LINEAR, yarn=YARN, mscale=MSCALE, llama3=LLAMA3, default=dict(rope_type="default")).items()}
CASES |= {
    "llama old by its first name": ("llama", old(dict(type="linear", factor=2.5))),
    "llama both": ("llama", dict(rope_scaling=LINEAR, rope_parameters=dict(rope_type="default", rope_theta=77.0), rope_theta=20000.0)),
    "llama both, no theta": ("llama", dict(rope_scaling=LINEAR, rope_parameters=dict(rope_type="default", rope_theta=77.0), rope_theta=None)),
    # transformers 4 has one theta for both kinds of layers
    "olmo3 new yarn": ("olmo3", by_kind(YARN, 500000.0, 500000.0)),
    "olmo3 old yarn": ("olmo3", old(YARN, 500000.0)),
    "gemma3 new linear": ("gemma3", by_kind(LINEAR)),
    "gemma3 new default": ("gemma3", by_kind(dict(rope_type="default"))),
    "gemma3 old linear": ("gemma3", old(LINEAR, 50000.0) | dict(rope_local_base_freq=3000.0)),
    "gemma3 old default": ("gemma3", old(None, 50000.0) | dict(rope_local_base_freq=3000.0)),
}


def logps(model, adapter=None):
    import torch
    from transformers import AutoModelForCausalLM

    kind = dict(dtype=torch.float32, attn_implementation="eager")
    model = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True, **kind).eval()
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).eval()
    vocab = model.config.vocab_size
    with torch.no_grad():
        return [model(torch.tensor([[token % vocab for token in ids]])).logits[0].log_softmax(-1).tolist() for ids in PROMPTS]


def base_in(place, fixture, fields):
    base = place / "base"
    shutil.copytree(MODELS / fixture, base)
    config = json.loads((base / "config.json").read_text()) | fields
    (base / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None or key not in fields}))
    return base


def furthest(a, b):
    import torch

    return max((torch.tensor(x) - torch.tensor(y)).abs().max().item() for x, y in zip(a, b))


def main():
    if sys.argv[1] == "--logps":
        print(json.dumps(logps(sys.argv[2])))
        return
    binary, four, *only = sys.argv[1:]
    wrong = []
    for name, (fixture, fields) in CASES.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as place:
            base, merged = base_in(Path(place), fixture, fields), Path(place) / "merged"
            adapter = MODELS / fixture / "adapters" / "plain"
            ran = subprocess.run([binary, "-q", "merge", "--force", "--dtype", "f32", "--base", base, "--adapter", adapter, "--output", merged], capture_output=True, text=True)
            if ran.returncode:
                print(f"{name:28} is not merged: {ran.stderr.strip()[:200]}", flush=True)
                wrong.append(name)
                continue
            want, bare, five = logps(base, adapter), logps(base), logps(merged)
            ran = subprocess.run([four, __file__, "--logps", merged], capture_output=True, text=True)
            there = furthest(json.loads(ran.stdout.splitlines()[-1]), want) if ran.returncode == 0 else ran.stderr.strip()[-200:]
            here = furthest(five, want)
            print(f"{name:28} transformers 5 {here:.1e}, 4 {there if isinstance(there, str) else f'{there:.1e}'}; adapter {furthest(bare, want):.2f}", flush=True)
            if here > BOUND or isinstance(there, str) or there > BOUND:
                wrong.append(name)
    assert not wrong, wrong


if __name__ == "__main__":
    main()
