"""Makes `tests/fixtures/dora/`: DoRA adapters as PEFT saves them, with PEFT's log-probs, and a gradient.

    python tests/parity/dora.py tests/fixtures
    python tests/parity/dora.py tests/fixtures --check ADAPTER    # logits that PEFT makes of an adapter of models/llama that dpo-lora wrote

`CASE/` is an adapter of `models/CASE` with random A, B and magnitude. `expected.json`: `CASE = {ids, logps, gradient}`; `logps[i]` is the log-prob of `ids[i + 1]`, in nats, and `gradient`
the norm of the gradient of their sum by each tensor of the first adapted module, as torch computes it (the norm of the weight counts as a constant).
"""
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

IDS = [1, 17, 45, 101, 9, 60, 33, 210, 5, 71, 18, 90]


def logps(model, ids):
    with torch.enable_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
        return torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def base(out, name):
    return AutoModelForCausalLM.from_pretrained(out / "models" / name, dtype=torch.float32, attn_implementation="eager")


def make(out, name):
    torch.manual_seed(7)
    config = LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base(out, name), config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.uniform_(-0.2, 0.2)
            elif "magnitude" in key:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3))
    found = logps(model, IDS)
    found.sum().backward()
    trained = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
    gradient = {}
    for key, parameter in trained:
        key = key.removeprefix("base_model.model.").replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")
        gradient[key] = parameter.grad.norm().item()
    directory = out / "dora" / name
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    # The base is found by the test, not by this machine's path.
    config = json.loads((directory / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = name
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return dict(ids=IDS, logps=found.tolist(), gradient=gradient)


def check(out, adapter):
    warnings.simplefilter("error", UserWarning)  # keys that PEFT misses or does not know
    model = PeftModel.from_pretrained(base(out, "llama"), adapter).eval()
    print(json.dumps(dict(ids=IDS, logps=logps(model, IDS).tolist())))


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    if sys.argv[2:3] == ["--check"]:
        check(out, sys.argv[3])
    else:
        found = {name: make(out, name) for name in ("llama", "gpt2")}
        (out / "dora/expected.json").write_text(json.dumps(found, indent=1) + "\n")
