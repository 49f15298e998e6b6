"""Serves an adapter, and the merged model, with the real llama.cpp (package xllamacpp), and compares both with dpo-lora.

    pip install xllamacpp transformers
    python examples/serving/llama_cpp.py [--binary target/release/dpo-lora] [--base DIR --adapter DIR]

Everything in float32 (F32 KV cache, no flash attention: llama.cpp's defaults round to F16). On the command line this is

    dpo-lora merge  --base BASE --adapter ADAPTER --weights 0 --format gguf --output base.gguf     # or llama.cpp's converter
    dpo-lora export --base BASE --adapter ADAPTER --format gguf --output adapter.gguf
    llama-server -m base.gguf --lora adapter.gguf
"""
import xllamacpp
from transformers import AutoTokenizer

import common


def serve(model, adapter=None):
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel = 256, 1
    params.cpuparams.n_threads = 2
    params.warmup = False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    return xllamacpp.Server(params)


def complete(server, prompt, **more):
    return server.handle_completions(dict(prompt=prompt, temperature=0.0, cache_prompt=False, **more))["choices"][0]


def logp(server, prompt, ids, vocab):
    """Log-prob of what follows the first `prompt` tokens: a request a token, with the log-probs of the whole vocabulary."""
    total = 0.0
    for at in range(prompt, len(ids)):
        answer = complete(server, ids[:at], n_predict=1, n_probs=vocab, ignore_eos=True)  # the log-probs are those before the end is held back
        total += next(entry["logprob"] for entry in answer["logprobs"]["content"][0]["top_logprobs"] if entry["id"] == ids[at])
    return total


def texts(server):
    return [complete(server, prompt, n_predict=common.NEW_TOKENS)["text"] for prompt in common.PROMPTS]


def check(name, base, adapter, args, place):
    run = lambda *more: common.program(args.binary, *more)
    model = ["--base", base, "--adapter", adapter]
    run("-q", "merge", *model, "--weights", "0", "--format", "gguf", "--dtype", "f32", "--output", place / "base.gguf")
    run("-q", "merge", *model, "--format", "gguf", "--dtype", "f32", "--output", place / "merged.gguf")
    run("-q", "export", *model, "--format", "gguf", "--output", place / "adapter.gguf")
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = common.pairs()
    encoded = [common.encode(tokenizer, pair) for pair in pairs]
    ours = common.scores(args.binary, base, adapter, pairs)
    served = {}
    for kind, server in (("base", serve(place / "base.gguf")), ("adapter", serve(place / "base.gguf", place / "adapter.gguf")), ("merged", serve(place / "merged.gguf"))):
        served[kind] = [logp(server, prompt, ids, len(tokenizer)) for prompt, ids in encoded], texts(server)
    tokens = [len(ids) - prompt for prompt, ids in encoded]
    off = lambda kind, side: max(abs(a - b[side]) / n for a, b, n in zip(served[kind][0], ours, tokens))
    moved = max(abs(policy - reference) for policy, reference in ours)
    on, alone = common.greedy(args.binary, base, adapter), common.greedy(args.binary, base)
    agreement = lambda ours, kind: sum(a.strip() == b.strip() for a, b in zip(ours, served[kind][1]))
    same = [agreement(on, "adapter"), agreement(on, "merged"), agreement(alone, "base")]
    print(f"{name:11} nats a token: adapter {off('adapter', 0):.1e}, merged {off('merged', 0):.1e}, base {off('base', 1):.1e}; the adapter moves a sum by {moved:.1f}; "
          f"same greedy text of {len(common.PROMPTS)}: adapter {same[0]}, merged {same[1]}, base {same[2]}", flush=True)
    assert max(off("adapter", 0), off("merged", 0), off("base", 1)) < 1e-4 and moved > 0.5 and served["adapter"][1] != served["base"][1]
    assert min(same) == len(common.PROMPTS)


if __name__ == "__main__":
    # llama.cpp keeps back the log-probs of half characters, which models of random weights write: tests/parity/gguf_adapter.py has those.
    common.check_all(__doc__, {}, check)
