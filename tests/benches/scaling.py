#!/usr/bin/env python3
"""How a training step's cost grows: with the batch (1, 2, 4, 8 times the same pairs) and with the threads (1 against 2).

    python scaling.py --binary target/release/dpo-lora --model MODELS/smollm2-135m-shape --data data/pairs_short.jsonl
        [--dtype bf16] [--steps 5] [--rounds 3]

Every batch holds copies of one pair, so that tokens grow exactly with it. Runs alternate; the first step of each, which
is cold, is left out. Prints seconds a packed token, relative to the first, and the speed-up of two threads. Needs no package.
"""
import argparse, json, os, statistics, subprocess, tempfile

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("binary", "model", "data"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--base-batch", type=int, default=2)
args = parser.parse_args()
pair = open(args.data).readline()


def seconds_per_token(batch, threads):
    """Of each step but the first."""
    with tempfile.TemporaryDirectory() as directory:
        with open(directory + "/data.jsonl", "w") as file:
            for i in range(batch):
                record = json.loads(pair)
                file.write(json.dumps(record) + "\n")
        with open(directory + "/run.yaml", "w") as file:
            file.write(f"model: {{base: {args.model}, dtype: {args.dtype}}}\ndata: {{train: {directory}/data.jsonl}}\n")
        sets = {"output_dir": directory + "/run", "train.max_steps": args.steps, "train.threads": threads,
                "train.per_device_train_batch_size": batch, "train.logging_steps": 1, "train.reference_cache": "off"}
        command = [args.binary, "-q", "train", "-c", directory + "/run.yaml"]
        command += [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        lines = [json.loads(line) for line in open(directory + "/run/metrics.jsonl")]
        # tokens_per_second is packed tokens over step_seconds.
        return [1.0 / line["tokens_per_second"] for line in lines if "step_seconds" in line][1:]


spread = lambda x: f"min {min(x):.3f}  median {statistics.median(x):.3f}  max {max(x):.3f}"
cores = os.cpu_count()
batches = [args.base_batch * factor for factor in (1, 2, 4, 8)]
found = {batch: [] for batch in batches}
threads = {1: [], 2: []}
for _ in range(args.rounds):
    for batch in batches:
        found[batch] += seconds_per_token(batch, cores)
    for count in threads:
        threads[count] += seconds_per_token(batches[1], count)
base = statistics.median(found[batches[0]])
for batch in batches:
    print(f"batch {batch:3}: milliseconds a token {spread([1e3 * s for s in found[batch]])}, "
          f"{statistics.median(found[batch]) / base:.3f} of the smallest batch's (min {min(found[batch]) / min(found[batches[0]]):.3f})")
ratios = [one / two for one, two in zip(threads[1], threads[2])]
print(f"two threads against one, batch {batches[1]}: {spread(ratios)} times as fast; of the best steps {min(threads[1]) / min(threads[2]):.3f}")
