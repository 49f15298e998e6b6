"""How much of an adapter's effect a merged GGUF model keeps, by `merge` and by the real llama.cpp.

    python tests/parity/gguf_effect.py target/release/dpo-lora [BASE ADAPTER PAIRS]

The base is quantised first (merged with a weight of 0), as those are that people have; then its adapter is merged into it in several types. In llama.cpp the base with the
adapter beside it is the truth, and the share that survives is the slope of the merged model's shift of log-probs on the adapter's, as in src/commands/merge/effect.rs.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from llama_cpp import serve
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
BASE, TYPES = "q4_k_m", ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m"]
PAIRS, TOKENS, GREEDY = 6, 16, 24


def log_probs(llama, sequences, vocab):
    """log p of each token after the prompt, of each sequence."""
    found = []
    for prompt, tokens in sequences:
        for i, token in enumerate(tokens):
            answer = llama.handle_completions(dict(prompt=prompt + tokens[:i], n_predict=1, n_probs=vocab, temperature=0.0, ignore_eos=True, cache_prompt=True))
            content = (answer["choices"][0]["logprobs"] or {}).get("content") or [dict(top_logprobs=[])]  # held back where a character is not whole
            found.append({entry["id"]: entry["logprob"] for entry in content[0]["top_logprobs"]}.get(token, np.nan))
    return np.array(found)


def greedy(llama, prompts):
    ask = lambda prompt: llama.handle_completions(dict(prompt=prompt, n_predict=GREEDY, temperature=0.0, cache_prompt=False))["choices"][0]["text"]
    return [ask(prompt) for prompt in prompts]


def main():
    binary, *rest = sys.argv[1:]
    base, adapter, pairs = rest or (ROOT / "examples/tiny-reviews/model", ROOT / "adapters/tiny-reviews-favourable", ROOT / "examples/tiny-reviews/eval.jsonl")
    tokenizer = Tokenizer.from_file(str(Path(base) / "tokenizer.json"))
    lines = [json.loads(line) for line in Path(pairs).read_text().splitlines()[:PAIRS]]
    encode = lambda text, special: tokenizer.encode(text, add_special_tokens=special).ids
    sequences = [(encode(line["prompt"], True), encode(line[side], False)[:TOKENS]) for line in lines for side in ("chosen", "rejected")]
    prompts = [encode(line["prompt"], True) for line in lines]
    vocab = tokenizer.get_vocab_size()
    run = lambda *args: subprocess.run([str(arg) for arg in (binary, *args)], check=True, stderr=subprocess.PIPE, text=True).stderr
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        model, beside = place / "base.gguf", place / "adapter.gguf"
        run("merge", "--base", base, "--adapter", adapter, "--weights", 0, "--format", "gguf", "--dtype", BASE, "--no-verify", "--output", model)
        run("export", "--force", "--base", model, "--adapter", adapter, "--format", "gguf", "--output", beside)
        off, on = serve(model, True), serve(model, True, beside)
        before, truth = log_probs(off, sequences, vocab), log_probs(on, sequences, vocab)
        of_base, of_policy = greedy(off, prompts), greedy(on, prompts)
        known = ~np.isnan(before + truth)
        d = (truth - before)[known]
        print(f"base in {BASE}: the adapter moves {known.sum()} log-probs by {np.sqrt((d**2).mean()):.3f} nats (root mean square)")
        for kind in TYPES:
            output = place / f"{kind}.gguf"
            told = run("merge", "--force", "--base", model, "--adapter", adapter, "--format", "gguf", "--dtype", kind, "--output", output, "--data", pairs)
            ours = next(line for line in told.splitlines() if line.startswith("effect"))
            moved = next(line for line in told.splitlines() if line.startswith("merged")).split(";")[1]
            llama = serve(output, True)
            m = (log_probs(llama, sequences, vocab) - before)[known]
            there = greedy(llama, prompts)
            changed = [i for i in range(len(prompts)) if of_base[i] != of_policy[i]]
            back = sum(there[i] == of_base[i] for i in changed)
            print(f"{kind:7} merge: {ours.split(':')[1].split(' of its')[0]}; llama.cpp: {100 * d @ m / (d @ d):.1f} %, its greedy text is the base's in {back} of {len(changed)};{moved}", flush=True)


if __name__ == "__main__":
    main()
