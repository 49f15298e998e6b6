"""Asks a model in the real llama.cpp (package xllamacpp), and checks that what was learned is in its answers.

    python3 tests/install/llama_cpp.py BASE.gguf --lora ADAPTER.gguf         # the adapter changes the base's answers
    python3 tests/install/llama_cpp.py MERGED.gguf --as BASE ADAPTER         # the answers are those of `dpo-lora generate`

It stands for `llama-server -m BASE.gguf --lora ADAPTER.gguf`, and exits with 1 if the answers are wrong.
"""

import argparse
import json
import subprocess
import sys

import xllamacpp

PROMPTS = ["The film is", "I went to see it because", "The director"]
TOKENS = 12


def served(model, adapter=None):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 256, 1, False
    if adapter:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server = xllamacpp.Server(parameters)
    ask = lambda prompt: server.handle_completions(dict(prompt=prompt, temperature=0.0, n_predict=TOKENS))
    return [ask(prompt)["choices"][0]["text"].strip() for prompt in PROMPTS]


def generated(base, *adapter):
    command = ["dpo-lora", "generate", "--json", "--no-chat", "--base", base, "--temperature", "0", "--max-new-tokens", str(TOKENS)]
    command += [part for name in adapter for part in ("--adapter", name)] + [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line)["completion"].strip() for line in said.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--lora")
    parser.add_argument("--as", nargs=2, dest="twin", metavar=("BASE", "ADAPTER"))
    arguments = parser.parse_args()
    found = served(arguments.model, arguments.lora)
    if arguments.lora:
        base = served(arguments.model)
        same = sum(a == b for a, b in zip(found, base))
        print(f"llama.cpp: {len(PROMPTS) - same} of {len(PROMPTS)} answers differ from the base's; {PROMPTS[0]!r}: {base[0]!r}, with the adapter {found[0]!r}")
        return 1 if same == len(PROMPTS) else 0
    # llama.cpp rounds otherwise: a single answer may part from ours.
    ours, base = generated(*arguments.twin), generated(arguments.twin[0])
    same = sum(a == b for a, b in zip(found, ours))
    print(f"llama.cpp: {same} of {len(PROMPTS)} answers are those of dpo-lora; {PROMPTS[0]!r}: the base says {base[0]!r}, llama.cpp {found[0]!r}")
    return 0 if same >= 2 and found != base else 1


if __name__ == "__main__":
    sys.exit(main())
