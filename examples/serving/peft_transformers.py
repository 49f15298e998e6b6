"""Loads an adapter with PEFT, and the merged model with transformers, and compares both with dpo-lora.

    pip install torch transformers peft
    python examples/serving/peft_transformers.py [--binary target/release/dpo-lora] [--base DIR --adapter DIR]
"""
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import common


def load(model):
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def logp(model, prompt, ids):
    logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(logps[at - 1, ids[at]].item() for at in range(prompt, len(ids)))


@torch.no_grad()
def texts(model, tokenizer):
    rows = []
    for prompt in common.PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=common.NEW_TOKENS, pad_token_id=0)
        rows.append(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True))
    return rows


def check(name, base, adapter, args, place):
    common.program(args.binary, "-q", "merge", "--base", base, "--adapter", adapter, "--dtype", "f32", "--output", place / "merged")
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = common.pairs()
    encoded = [common.encode(tokenizer, pair) for pair in pairs]
    ours = common.scores(args.binary, base, adapter, pairs)
    adapted, merged = PeftModel.from_pretrained(load(base), adapter).eval(), load(place / "merged")
    off = lambda model, side: max(abs(logp(model, prompt, ids) - our[side]) / (len(ids) - prompt) for (prompt, ids), our in zip(encoded, ours))
    on = common.greedy(args.binary, base, adapter)
    same = [sum(a == b for a, b in zip(on, texts(model, tokenizer))) for model in (adapted, merged)]
    errors = [off(adapted, 0), off(merged, 0)]
    with adapted.disable_adapter():
        errors.append(off(adapted, 1))
    moved = max(abs(policy - reference) for policy, reference in ours)
    print(f"{name:15} nats a token: PEFT {errors[0]:.1e}, merged in transformers {errors[1]:.1e}, base {errors[2]:.1e}; the adapter moves a sum by {moved:.1f}; "
          f"same greedy text of {len(common.PROMPTS)}: PEFT {same[0]}, merged {same[1]}", flush=True)
    assert max(errors) < 1e-5 and moved > 0.5 and min(same) == len(common.PROMPTS)


if __name__ == "__main__":
    fixtures = {"llama, rslora": common.fixture("llama", "rslora"), "llama, patterns": common.fixture("llama", "patterns"), "llama3": common.fixture("llama3")}
    common.check_all(__doc__, fixtures, check)
