"""Loads a finished adapter through PEFT and compares with `dpo-lora score`: by hand, when an adapter was made anew.

    cargo build --release
    python tests/parity/check_adapter.py target/release/dpo-lora --write tests/fixtures/adapters/tiny-reviews-favourable.json

Both compute in float32. Says the largest difference of summed log-probs (nats), adapter on and off, and how far the
adapter moves one: a check that loads nothing would agree too. Exits with 1 if they disagree. `--write` keeps logits of
PEFT's for `tests/adapters.rs`.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from files import write_json

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "examples" / "tiny-reviews"
BOUND = 1e-4
LOGITS = 3  # pairs whose logits are kept
SIDES = ("chosen", "rejected")


def main(options):
    records = [json.loads(line) for line in options.data.read_text().splitlines()[: options.count]]
    ours = score(options, records)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    sequences = [[encode(tokenizer, record, side) for side in SIDES] for record in records]
    model = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32, attn_implementation="eager").eval()
    off = compare(model, sequences, ours, "ref_")
    model = PeftModel.from_pretrained(model, options.adapter).eval()
    on = compare(model, sequences, ours, "")
    moved = max(abs(line[f"{side}_logp"] - line[f"ref_{side}_logp"]) for line in ours for side in SIDES)
    print(f"{len(records)} pairs; largest difference of a summed log-prob: adapter on {on:.2e}, off {off:.2e}")
    print(f"the adapter moves a summed log-prob by up to {moved:.2f}")
    if options.write:
        kept = [chosen[1] for chosen, _ in sequences[:LOGITS]]
        lines = [dict(ids=ids, logits=[round(x, 6) for x in logits(model, ids)[-1].tolist()]) for ids in kept]
        write_json(options.write, lines)
    return 0 if max(on, off) <= BOUND and moved > 1 else 1


def encode(tokenizer, record, side):
    """How many tokens the prompt has, and all tokens; TRL's rule where no token crosses the border."""
    prompt = tokenizer(record["prompt"])["input_ids"]
    ids = tokenizer(record["prompt"] + record[side] + tokenizer.eos_token)["input_ids"]
    assert ids[: len(prompt)] == prompt, "a token crosses the border"
    return len(prompt), ids


def compare(model, sequences, ours, prefix):
    """The largest difference of a completion's summed log-prob."""
    pairs = ((line[f"{prefix}{side}_logp"], of) for line, both in zip(ours, sequences) for side, of in zip(SIDES, both))
    return max(abs(got - sum_logp(model, *of)) for got, of in pairs)


def score(options, records):
    """What the program says, one object a pair."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "pairs.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        model = ["--base", options.base, "--adapter", options.adapter, "--dtype", "f32"]
        command = [str(part) for part in [options.binary, "score", *model, "--data", data]]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return [json.loads(line) for line in said.stdout.splitlines()]


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def sum_logp(model, prompt, ids):
    """Log-prob of what follows the first `prompt` tokens, in nats; the soft-max and the sum in float64."""
    logps = logits(model, ids).double().log_softmax(-1)
    return sum(logps[i - 1, ids[i]].item() for i in range(prompt, len(ids)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--adapter", type=Path, default=ROOT / "adapters" / "tiny-reviews-favourable")
    parser.add_argument("--base", type=Path, default=TINY / "model")
    parser.add_argument("--data", type=Path, default=TINY / "eval.jsonl")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--write", type=Path)
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    sys.exit(main(parser.parse_args()))
