#!/usr/bin/env python3
"""Start-up time and memory of ranks on one machine that train on many pairs.

    python3 tests/cluster/million_pairs.py PROGRAM [--base BASE --pairs 1000000 --ranks 1 4 --steps 4 --place DIR]

Writes a file of short pairs and trains a few steps on it, for each number of ranks first with an empty cache and then again.
For each run it prints the seconds until every rank has ended its first step, and of the ranks the greatest memory of their own
(`RssAnon`), and of mapped files that they share (`RssFile`). It checks that all runs have the same adapter. That four ranks see each
of a million pairs once in an epoch is tested by `cargo test --lib ranks`.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "benches"))
from million_pairs import write  # noqa: E402  of tests/benches


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def status(process):
    """Bytes of a process that are its own, and those of mapped files."""
    found = {}
    try:
        for line in open(f"/proc/{process}/status"):
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssFile"):
                found[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return found.get("RssAnon", 0), found.get("RssFile", 0)


def run(options, place, ranks, name):
    """Seconds to the first step, greatest memory of each rank, and the hash of the adapter."""
    place = pathlib.Path(place)
    out = place / name
    config = dict(
        output_dir=str(out), model=dict(base=options.base, device="cpu"), data=dict(train=str(place / "pairs.jsonl")),
        lora=dict(r=8, lora_alpha=16), objective=dict(loss_type="sigmoid"),
        train=dict(per_device_train_batch_size=4, gradient_accumulation_steps=options.accumulation // ranks, max_steps=options.steps,
                   logging_steps=1, sample_prompts=0),
    )
    (place / f"{name}.json").write_text(json.dumps(config))
    start, port, children = time.monotonic(), free_port(), []
    for rank in range(ranks):
        environment = dict(os.environ, XDG_CACHE_HOME=str(place / "cache"))
        if ranks > 1:
            environment |= dict(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        words = [options.program, "train", "-c", str(place / f"{name}.json")]
        children.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=open(place / f"{name}.{rank}.log", "w")))
    first, most = None, [(0, 0)] * ranks
    while any(child.poll() is None for child in children):
        most = [tuple(map(max, zip(before, status(child.pid)))) for before, child in zip(most, children)]
        metrics = out / "metrics.jsonl"
        if first is None and metrics.exists() and metrics.stat().st_size > 0:
            first = time.monotonic() - start
        time.sleep(0.05)
    for rank, child in enumerate(children):
        if child.returncode != 0:
            sys.exit(f"rank {rank} of {ranks}: {(place / f'{name}.{rank}.log').read_text()}")
    adapter = hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    return first, most, adapter


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath)
    parser.add_argument("--base", default="tiny-reviews")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--place")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        data = pathlib.Path(place) / "pairs.jsonl"
        write(data, options.pairs, (8, 14, 12))
        print(f"{options.pairs} pairs, {data.stat().st_size / 1e6:.0f} MB; {os.cpu_count()} processors", flush=True)
        adapters = set()
        for ranks in options.ranks:
            shutil.rmtree(pathlib.Path(place) / "cache", ignore_errors=True)
            for turn in ("empty cache", "again"):
                seconds, most, adapter = run(options, place, ranks, f"run-{ranks}-{turn.replace(' ', '-')}")
                adapters.add(adapter)
                own, shared = [max(column) / 1e6 for column in zip(*most)]
                each = ", ".join(f"{a / 1e6:.0f}" for a, _ in most)
                print(f"{ranks} rank(s), {turn}: first step after {seconds:.1f} s; MB of a rank at most: {own:.0f} of its own ({each}), "
                      f"{shared:.0f} mapped", flush=True)
        if len(adapters) != 1:
            sys.exit("the adapters differ")
        print("all runs have the same adapter")


if __name__ == "__main__":
    main()
