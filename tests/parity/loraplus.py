"""Makes `tests/fixtures/loraplus.json`: steps of PEFT's `create_loraplus_optimizer` with torch's AdamW.

    python tests/parity/loraplus.py tests/fixtures

Each case starts from an adapter of the fixtures and takes steps along the gradient of the negative log-prob of `ids[1:]`. `steps[i]`: the log-prob before step i in nats, and after the step the norm
of all A, of all B and of all magnitudes.
"""
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM

IDS = [1, 17, 45, 101, 9, 60, 33, 210, 5, 71, 18, 90]
CASES = [("models/llama/adapters/plain", 16.0, 0.0), ("dora/llama", 4.0, 0.1)]
STEPS, LR = 5, 2e-3


def run(out, adapter, ratio, decay):
    base = AutoModelForCausalLM.from_pretrained(out / "models/llama", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, out / adapter, is_trainable=True).eval()
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=ratio, loraplus_weight_decay=decay)
    steps = []
    for _ in range(STEPS):
        logits = model(torch.tensor([IDS])).logits[0, :-1]
        logp = torch.log_softmax(logits, -1).gather(1, torch.tensor(IDS[1:])[:, None]).sum()
        optimizer.zero_grad()
        (-logp).backward()
        optimizer.step()
        norms = {"lora_A": 0.0, "lora_B": 0.0, "magnitude": 0.0}
        for name, parameter in model.named_parameters():
            for part in norms:
                if part in name and parameter.requires_grad:
                    norms[part] += parameter.double().square().sum().item()
        steps.append(dict(logp=logp.item(), **{part: square**0.5 for part, square in norms.items()}))
    return dict(adapter=adapter, loraplus_lr_ratio=ratio, weight_decay=decay, learning_rate=LR, ids=IDS, steps=steps)


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    (out / "loraplus.json").write_text(json.dumps([run(out, *case) for case in CASES], indent=1) + "\n")
