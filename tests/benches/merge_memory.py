"""Merges a model beside a copy of its file: peak anonymous memory and time.

    python tests/benches/merge_memory.py target/release/dpo-lora MODEL_DIRECTORY [ROUNDS]

Makes a rank-16 adapter of all linear layers with random numbers (needs numpy and safetensors), then alternates `cp` and `merge --no-verify`,
each followed by a sync. Wanted: RssAnon at most 1.2 × the largest tensor in float32 + 300 MB; time at most twice the copy's.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

LEAVES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapter(model, place):
    rng, tensors, largest = np.random.default_rng(0), {}, 0
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "np") as source:
            for name in source.keys():
                shape = source.get_slice(name).get_shape()
                largest = max(largest, int(np.prod(shape)))
                module = name.removesuffix(".weight")
                if module.split(".")[-1] in LEAVES:
                    tensors[f"base_model.model.{module}.lora_A.weight"] = rng.standard_normal((16, shape[1]), np.float32) * 0.02
                    tensors[f"base_model.model.{module}.lora_B.weight"] = rng.standard_normal((shape[0], 16), np.float32) * 0.02
    place.mkdir()
    save_file(tensors, place / "adapter_model.safetensors")
    (place / "adapter_config.json").write_text(json.dumps(dict(peft_type="LORA", r=16, lora_alpha=32, target_modules=LEAVES)))
    return 4 * largest


def watch(command):
    """Seconds, and the most anonymous memory seen, in bytes."""
    start, most = time.perf_counter(), 0
    child = subprocess.Popen([str(part) for part in command])
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
            most = max([most] + [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")])
        except OSError:
            pass
        time.sleep(0.005)
    assert child.returncode == 0
    os.sync()
    return time.perf_counter() - start, most


def main():
    binary, model, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with tempfile.TemporaryDirectory(dir=os.environ.get("PLACE")) as place:
        place = Path(place)
        largest = adapter(model, place / "adapter")
        copies, merges, memory = [], [], 0
        for _ in range(rounds):
            copies.append(watch(["cp", "-r", model, place / "copy"])[0])
            subprocess.run(["rm", "-r", place / "copy"], check=True)
            seconds, anonymous = watch([binary, "-q", "merge", "--no-verify", "--base", model, "--adapter", place / "adapter", "--output", place / "merged"])
            merges.append(seconds)
            memory = max(memory, anonymous)
            subprocess.run(["rm", "-r", place / "merged"], check=True)
    size = sum(file.stat().st_size for file in model.iterdir())
    middle = lambda times: sorted(times)[len(times) // 2]
    bound = 1.2 * largest + 300e6
    show = lambda times: "/".join(f"{t:.2f}" for t in (min(times), middle(times), max(times)))
    print(f"{size / 1e9:.2f} GB, min/median/max of {rounds}: copy {show(copies)} s ({size / 1e9 / middle(copies):.2f} GB/s to the disk), merge {show(merges)} s; "
          f"ratio of medians {middle(merges) / middle(copies):.2f}, of neighbours {show([b / a for a, b in zip(copies, merges)])}")
    print(f"peak RssAnon {memory / 1e6:.0f} MB; bound {bound / 1e6:.0f} MB (largest tensor in float32: {largest / 1e6:.0f} MB)")
    return 0 if memory <= bound else 1


if __name__ == "__main__":
    sys.exit(main())
