#!/usr/bin/env python3
"""Training on a quantised GGUF base against the same training on its bf16 twin: the same pairs, batch and rank, runs alternating.

    python gguf_against_bf16.py --binary target/release/dpo-lora --gguf MODEL.gguf --bf16 DIRECTORY --data PAIRS.jsonl [--steps 5] [--rounds 3] [--batch 4]

Prints tokens a second of both, their ratio step by step (the same pairs; min/median/max; the cold first step of each run left out), and peak memory: the resident
set, whose mapped weights the system can drop and read again, and the anonymous part of it, which it cannot. Our reference cache is off, so every step makes its
reference pass. No package is needed.
"""
import argparse, json, os, re, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("binary", "gguf", "bf16", "data"):
    parser.add_argument("--" + name, required=True)
for name, default in (("steps", 5), ("rounds", 3), ("batch", 4)):
    parser.add_argument("--" + name, type=int, default=default)
args = parser.parse_args()


def watched(command):
    """Peak resident and anonymous memory of a process, in MB; the latter read every 20 ms."""
    process, anonymous = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        with open(f"/proc/{process.pid}/status") as file:
            found = re.search(r"RssAnon:\s+(\d+)", file.read())
        anonymous = max(anonymous, int(found.group(1)) if found else 0)
        time.sleep(0.02)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1024, anonymous / 1024


def train(base):
    with tempfile.TemporaryDirectory() as directory:
        config = {
            "output_dir": directory + "/run", "model": {"base": base}, "data": {"train": args.data}, "lora": {"r": 16, "lora_alpha": 32},
            "train": {"max_steps": args.steps, "per_device_train_batch_size": args.batch, "lr_scheduler_type": "constant", "shuffle": False, "logging_steps": 1, "reference_cache": "off"},
        }
        with open(directory + "/run.yaml", "w") as file:
            json.dump(config, file)  # which is YAML too
        memory = watched([args.binary, "-q", "train", "-c", directory + "/run.yaml"])
        lines = [json.loads(line) for line in open(directory + "/run/metrics.jsonl")]
        lines = [line for line in lines if "step_seconds" in line]
        return [line["tokens_per_second"] for line in lines[1:]], lines[0]["loss"], memory


spread = lambda x, digits=0: f"min {min(x):.{digits}f}  median {statistics.median(x):.{digits}f}  max {max(x):.{digits}f}"
speeds, peaks, ratios = {"gguf": [], "bf16": []}, {"gguf": [], "bf16": []}, []
for _ in range(args.rounds):
    found = {kind: train(getattr(args, kind)) for kind in speeds}
    for kind, (speed, loss, memory) in found.items():
        speeds[kind] += speed
        peaks[kind].append(memory)
        print(f"{kind}: tokens/s {[round(x) for x in speed]}  peak MB {memory[0]:.0f}, of it anonymous {memory[1]:.0f}  first loss {loss:.5f}", flush=True)
    ratios += [a / b for a, b in zip(found["gguf"][0], found["bf16"][0], strict=True)]
for kind in speeds:
    resident, anonymous = (max(peak[i] for peak in peaks[kind]) for i in (0, 1))
    print(f"{kind}: tokens/s {spread(speeds[kind])}; peak resident {resident:.0f} MB, of it anonymous {anonymous:.0f} MB")
print(f"speed, GGUF to bf16: {spread(ratios, 2)}")
