"""Reads many pairs: python3 million_pairs.py BINARY --model DIR [--pairs 1000000] [--place DIR].

Writes a file of pairs, runs `train --dry-run` on it twice with an empty cache, and prints seconds, pairs per second and peak
memory of both runs. With the `tokenizers` package it also encodes the same texts (the prompt, and the prompt with each answer)
on as many threads, without rendering, packing or writing anything: the tokenizer's own speed.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time

WORDS = ("the river bends around an old mill where nobody has lived for many years and its wheel still turns slowly while "
         "people from the village tell stories about light music winter bread markets letters and long journeys").split()


def text(draw, words):
    return " ".join(draw.choice(WORDS) for _ in range(words))


def write(path, pairs, words=(30, 60, 50)):
    """Pairs whose prompt, chosen and rejected completion have so many words."""
    prompt, chosen, rejected = words
    draw = random.Random(1)
    with open(path, "w") as out:
        for i in range(pairs):
            row = dict(prompt=f"Question {i}: {text(draw, prompt)}?", chosen=f" {text(draw, chosen)}.", rejected=f" {text(draw, rejected)}.")
            out.write(json.dumps(row) + "\n")


def run(binary, config, cache):
    """Seconds, peak bytes and messages of a dry run."""
    start = time.monotonic()
    environment = dict(os.environ, XDG_CACHE_HOME=str(cache))
    child = subprocess.Popen([binary, "train", "-c", str(config), "--dry-run"], env=environment, stderr=subprocess.PIPE)
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, said
    return time.monotonic() - start, usage.ru_maxrss * 1024, said


def own_speed(model, data, sample):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = []
    for line, _ in zip(open(data), range(sample)):
        row = json.loads(line)
        texts += [row["prompt"], row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]
    start = time.monotonic()
    tokenizer.encode_batch_fast(texts)
    return len(texts) / 3 / (time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--place", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.place) as place:
        place = pathlib.Path(place)
        write(place / "pairs.jsonl", args.pairs)
        settings = dict(output_dir=str(place / "run"), model=dict(base=str(args.model), device="cpu"),
                        data=dict(train=str(place / "pairs.jsonl"), cache=str(place / "tokenized")))
        (place / "run.yaml").write_text(json.dumps(settings))
        megabytes = (place / "pairs.jsonl").stat().st_size / 1e6
        print(f"{args.pairs} pairs, {megabytes:.0f} MB, {os.cpu_count()} processors")
        speeds = []
        for name in ("first", "second"):
            seconds, memory, _ = run(args.binary, place / "run.yaml", place / "cache")
            speeds.append(args.pairs / seconds)
            print(f"{name} run: {seconds:.1f} s, {speeds[-1]:.0f} pairs/s, peak {memory / 1e6:.0f} MB", flush=True)
        stored = sum(path.stat().st_size for path in (place / "tokenized").glob("*.tokens"))
        print(f"stored: {stored / 1e6:.0f} MB")
        try:
            own = own_speed(args.model, place / "pairs.jsonl", min(args.pairs, 30000))
        except ImportError:
            print("the tokenizer's own speed: the package `tokenizers` is missing")
        else:
            print(f"the tokenizer's own speed: {own:.0f} pairs/s; the first run has {100 * speeds[0] / own:.0f} % of it")


if __name__ == "__main__":
    main()
