"""Loads a reward model of ours through PEFT and compares with `dpo-lora score`: by hand, when the format of its files changed.

    cargo build --release
    python tests/parity/check_reward.py target/release/dpo-lora --base DIR --adapter DIR --data pairs.jsonl

Both compute in float32. Says the largest difference of a reward, and how far rewards are apart: a check that loads nothing would agree too. Exits with 1 if they disagree.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BOUND = 1e-5
SIDES = ("chosen", "rejected")


def main(options):
    records = [json.loads(line) for line in options.data.read_text().splitlines()]
    command = [options.binary, "score", "--base", options.base, "--adapter", options.adapter, "--dtype", "f32", "--data", options.data]
    said = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    ours = [json.loads(line) for line in said.splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    torch.manual_seed(99)  # the head that the adapter replaces
    base = AutoModelForSequenceClassification.from_pretrained(options.base, num_labels=1, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, options.adapter).eval()
    pairs = [(line[f"{side}_reward"], reward(model, tokenizer, records[line["index"]], side)) for line in ours for side in SIDES]
    worst = max(abs(a - b) for a, b in pairs)
    rewards = [a for a, _ in pairs]
    print(f"{len(ours)} pairs; largest difference of a reward: {worst:.2e}; rewards from {min(rewards):.3f} to {max(rewards):.3f}")
    return 0 if worst <= BOUND and max(rewards) - min(rewards) > 100 * BOUND else 1


def reward(model, tokenizer, record, side):
    ids = tokenizer(record["prompt"] + record[side] + tokenizer.eos_token)["input_ids"]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    sys.exit(main(parser.parse_args()))
