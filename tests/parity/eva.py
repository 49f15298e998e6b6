"""Makes `tests/fixtures/eva.json`: the ranks and components of PEFT's `initialize_lora_eva_weights`.

    python tests/parity/eva.py tests/fixtures
    python tests/parity/eva.py tests/fixtures --estimated    # prints how far PEFT's own estimate of the components is from the exact ones

`examples`: prompts with two completions. Every token counts that a packed batch computes: a prompt once, and of a completion all but the last token; with `use_label_mask` the completions alone. `cases`: the
settings, and by module its rank, alpha and the rows of A. PEFT's incremental decomposition is switched from `svd_lowrank`, whose result depends on torch's random numbers, to the exact one.
"""
import json
import random
import sys
from pathlib import Path

import torch
import peft.tuners.lora.eva as peft_eva
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from peft.utils.incremental_pca import IncrementalPCA
from transformers import AutoModelForCausalLM

BATCH = 3


class Exact(IncrementalPCA):
    def __init__(self, n_components, **_):
        super().__init__(n_components=n_components, copy=True)


CASES = [
    dict(rho=2.0, use_label_mask=True), dict(rho=1.0, use_label_mask=False), dict(rho=2.0, use_label_mask=False, adjust_scaling_factors=False),
    dict(rho=2.0, use_label_mask=True, whiten=True), dict(rho=1.0, use_label_mask=False, whiten=True),
]
# PEFT whitens in place, and so several times where modules share an input: of these no two do.
UNSHARED = ["q_proj", "o_proj", "gate_proj", "down_proj"]


def examples():
    draw = random.Random(5)
    tokens = lambda least, most: [draw.randrange(3, 320) for _ in range(draw.randrange(least, most))]
    return [dict(prompt=tokens(6, 14), completions=[tokens(12, 20), tokens(9, 25)]) for _ in range(8)]


def batches(data, use_label_mask):
    found = []
    for first in range(0, len(data), BATCH):
        rows = []
        for example in data[first : first + BATCH]:
            for i, completion in enumerate(example["completions"]):
                prompt, completion = example["prompt"], completion[:-1]
                counts = i == 0 and not use_label_mask
                rows.append((prompt + completion, [1 if counts else -100] * len(prompt) + [1] * len(completion)))
        longest = max(len(ids) for ids, _ in rows)
        pad = lambda values, by: values + [by] * (longest - len(values))
        found.append(
            dict(
                input_ids=torch.tensor([pad(ids, 0) for ids, _ in rows]),
                attention_mask=torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows]),
                labels=torch.tensor([pad(labels, -100) for _, labels in rows]),
            )
        )
    return found


def run(out, data, case, pca=Exact):
    peft_eva.IncrementalPCA = pca
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(out / "models/llama", dtype=torch.float32, attn_implementation="eager").eval()
    eva = EvaConfig(**{**case, "use_label_mask": True})  # the labels say which rows count
    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights="eva", eva_config=eva, target_modules=UNSHARED if case.get("whiten") else "all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    initialize_lora_eva_weights(model, batches(data, case["use_label_mask"]))
    modules = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            a = module.lora_A["default"].weight
            modules[name.removeprefix("base_model.model.")] = dict(
                rank=module.r["default"], alpha=module.lora_alpha["default"], scale=module.scaling["default"], a=[[round(x, 5) for x in row] for row in a.tolist()]
            )
    return dict(eva_config=case, modules=modules)


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    data = examples()
    if sys.argv[2:] == ["--estimated"]:
        for case in CASES:
            exact, estimated = (run(out, data, case, pca)["modules"] for pca in (Exact, IncrementalPCA))
            cosines = [
                torch.nn.functional.cosine_similarity(torch.tensor(x), torch.tensor(y), dim=0).item()
                for name in exact
                for x, y in zip(exact[name]["a"], estimated[name]["a"])
            ]
            same = sum(exact[name]["rank"] == estimated[name]["rank"] for name in exact)
            print(f"{case}: {same} of {len(exact)} ranks are the same; cosines from {min(cosines):.4f}, half above {sorted(cosines)[len(cosines) // 2]:.4f}")
        sys.exit()
    found = dict(batch=BATCH, examples=data, cases=[run(out, data, case) for case in CASES])
    (out / "eva.json").write_text(json.dumps(found) + "\n")
