"""Makes `tests/fixtures/trainables/`: adapters that are not low-rank matrices alone, as PEFT saves them, with PEFT's log-probs and gradients.

    python tests/parity/trainables.py tests/fixtures
    python tests/parity/trainables.py tests/fixtures --check BASE ADAPTER    # log-probs that PEFT has for an adapter of models/BASE that dpo-lora wrote

`KIND-BASE/` is an adapter of `models/BASE`: `prefix` (PREFIX_TUNING), `projected` (the same with prefix_projection; `network.safetensors` has what PEFT trains), `rows` (LoRA with trainable_token_indices), `whole` (LoRA with modules_to_save: embedding and head).
`expected.json`: `KIND-BASE = {base, ids, logps, text, gradient}`; `logps[i]` is the log-prob of `ids[i + 1]`, in nats, `text` what follows the first tokens greedily (by passes
without a cache: with transformers 5.24, PEFT's `generate` loses the prefix), and `gradient` the norm of the gradient of the sum of `logps` by each tensor, as torch computes it.
"""
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

IDS = [1, 17, 45, 101, 9, 60, 33, 210, 5, 71, 18, 90]
TOKENS = [45, 9, 300, 210]
START, NEW = 4, 6
CASES = [
    *(("prefix", base) for base in ("llama", "gpt2", "gemma2", "mistral")),
    *(("projected", base) for base in ("llama", "gpt2")),
    *(("rows", base) for base in ("llama", "gpt2")),
    *(("whole", base) for base in ("llama", "gpt2", "gptj")),
]
NAMES = {"llama": ["embed_tokens", "lm_head"], "gpt2": ["wte", "lm_head"], "gptj": ["wte", "lm_head"]}


def logps(model, ids):
    tokens = torch.tensor([ids])
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0, :-1]
    return torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def base(out, name):
    return AutoModelForCausalLM.from_pretrained(out / "models" / name, dtype=torch.float32, attn_implementation="eager").eval()


def config(kind, name):
    if kind == "prefix":
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    if kind == "projected":
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=6)
    extra = dict(modules_to_save=NAMES[name]) if kind == "whole" else dict(trainable_token_indices={NAMES[name][0]: TOKENS})
    return LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **extra)


def short(key):
    key = key.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
    return key.replace(".default", "")


def make(out, kind, name):
    torch.manual_seed(7)
    model = get_peft_model(base(out, name), config(kind, name)).eval()
    trained = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
    with torch.no_grad():
        for key, parameter in trained:
            if "lora_B" in key:
                parameter.uniform_(-0.2, 0.2)
            elif "lora_A" not in key and kind not in ("prefix", "projected"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    found = logps(model, IDS)
    found.sum().backward()
    gradient = {short(key): parameter.grad.norm().item() for key, parameter in trained}
    text = list(IDS[:START])
    for _ in range(NEW):
        tokens = torch.tensor([text])
        text.append(model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0, -1].argmax().item())
    directory = out / "trainables" / f"{kind}-{name}"
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    if kind == "projected":
        save_file({short(key): parameter.detach().contiguous() for key, parameter in trained}, directory / "network.safetensors")
    # The base is found by the test, not by this machine's path.
    settings = json.loads((directory / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = name
    (directory / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    again = PeftModel.from_pretrained(base(out, name), directory).eval()
    assert torch.allclose(logps(again, IDS), found.detach(), atol=1e-6), (kind, name)
    return dict(base=name, ids=IDS, logps=found.tolist(), text=text[START:], gradient=gradient)


def check(out, name, adapter):
    model = PeftModel.from_pretrained(base(out, name), adapter).eval()
    print(json.dumps(dict(base=name, ids=IDS, logps=logps(model, IDS).tolist())))


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    if sys.argv[2:3] == ["--check"]:
        check(out, *sys.argv[3:])
    else:
        found = {f"{kind}-{name}": make(out, kind, name) for kind, name in CASES}
        (out / "trainables/expected.json").write_text(json.dumps(found, indent=1) + "\n")
