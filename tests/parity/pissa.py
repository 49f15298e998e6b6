"""Makes `tests/fixtures/pissa/`: PiSSA as PEFT trains and shares it.

    python tests/parity/pissa.py tests/fixtures
    python tests/parity/pissa.py tests/fixtures --check ADAPTER    # log-probs that PEFT makes of an adapter of models/llama that dpo-lora wrote

`CASE/` is the adapter of `models/CASE` after the steps, converted by `save_pretrained(path_initial_model_for_weight_conversion=...)`. `expected.json`: `CASE = {init, ids, start, steps, logps}`: the
log-probs of `ids[1:]` before the first step, their sum before each step of torch's AdamW, and the log-probs after the last.
`starts.json`: by `init_lora_weights` and module of `models/llama`, the norm of what PEFT leaves in the base.
"""
import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

IDS = [1, 17, 45, 101, 9, 60, 33, 210, 5, 71, 18, 90]
STEPS, LR = 4, 2e-3


def logps(model):
    logits = model(torch.tensor([IDS])).logits[0, :-1]
    return torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]


def base(out, name):
    return AutoModelForCausalLM.from_pretrained(out / "models" / name, dtype=torch.float32, attn_implementation="eager")


def make(out, name, init):
    torch.manual_seed(7)
    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights=init, rank_pattern={"k_proj": 3}, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base(out, name), config).eval()
    with tempfile.TemporaryDirectory() as initial:
        model.peft_config["default"].init_lora_weights = init
        model.save_pretrained(initial)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.0)
        start, steps = logps(model).tolist(), []
        for _ in range(STEPS):
            found = logps(model).sum()
            optimizer.zero_grad()
            (-found).backward()
            optimizer.step()
            steps.append(found.item())
        end = logps(model).tolist()
        directory = out / "pissa" / name
        model.save_pretrained(directory, path_initial_model_for_weight_conversion=initial)
    (directory / "README.md").unlink(missing_ok=True)
    # The base is found by the test, not by this machine's path.
    saved = json.loads((directory / "adapter_config.json").read_text())
    saved["base_model_name_or_path"] = name
    (directory / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    return dict(init=init, ids=IDS, learning_rate=LR, start=start, steps=steps, logps=end)


def check(out, adapter):
    warnings.simplefilter("error", UserWarning)  # keys that PEFT misses or does not know
    model = PeftModel.from_pretrained(base(out, "llama"), adapter).eval()
    print(json.dumps(dict(ids=IDS, logps=logps(model).tolist())))


def residuals(out, name, init):
    """How far PEFT's start `s·B₀·A₀` is from each weight: the Frobenius norm of what is left."""
    torch.manual_seed(11)
    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights=init, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base(out, name), config)
    # PEFT leaves what is left in the base.
    layers = ((key, module) for key, module in model.named_modules() if hasattr(module, "lora_A"))
    return {key.removeprefix("base_model.model."): module.get_base_layer().weight.double().norm().item() for key, module in layers}


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    if sys.argv[2:3] == ["--check"]:
        check(out, sys.argv[3])
    else:
        found = {name: make(out, name, init) for name, init in (("llama", "pissa"), ("gpt2", "pissa"))}
        starts = {init: residuals(out, "llama", init) for init in ("pissa", "pissa_niter_1", "pissa_niter_4", "pissa_niter_16")}
        (out / "pissa/starts.json").write_text(json.dumps(starts, indent=1) + "\n")
        (out / "pissa/expected.json").write_text(json.dumps(found, indent=1) + "\n")
