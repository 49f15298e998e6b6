#!/usr/bin/env python3
"""What `train --dry-run` expects a run's peak memory to be, against what happens.

    python expected_memory.py --binary target/release/dpo-lora --models MODELS [--pairs FOLDER]
        [--only qwen2.5-0.5b-shape:long:bf16 gemma3-270m-q4_k_m.gguf:short:auto ...] [--steps 2] [--set train.gradient_checkpointing=true]

FOLDER has pairs_short.jsonl and pairs_long.jsonl; without it, tests/device/make_data.py makes them. Each run trains on
the first four pairs alone, in one batch, so that the largest batch is the one that is run. A type is one of model.dtype, or nf4. Prints both in MB and
expected / measured; wanted: 0.85 to 1.15. Needs no package.
"""
import argparse, json, os, pathlib, re, subprocess, sys, tempfile

MODELS = ("smollm2-135m-shape", "gemma3-270m-bf16", "qwen2.5-0.5b-shape")
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("binary", "models"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--pairs", metavar="FOLDER")
parser.add_argument("--only", nargs="*", default=[f"{m}:{d}:{t}" for m in MODELS for d in ("short", "long") for t in ("bf16", "f32")])
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--set", action="append", default=[])
args = parser.parse_args()
made = tempfile.TemporaryDirectory()
if not args.pairs:
    script = pathlib.Path(__file__).resolve().parents[1] / "device" / "make_data.py"
    subprocess.run([sys.executable, script, made.name], check=True, stdout=subprocess.DEVNULL)
worst = 1.0
for case in args.only:
    model, data, dtype = case.split(":")
    with tempfile.TemporaryDirectory() as directory:
        lines = open(os.path.join(args.pairs or made.name, f"pairs_{data}.jsonl")).readlines()[:4]
        with open(directory + "/pairs.jsonl", "w") as file:
            file.writelines(lines)
        base = os.path.join(args.models, model)
        stored = "load_in_4bit: nf4" if dtype == "nf4" else f"dtype: {dtype}"
        with open(directory + "/run.yaml", "w") as file:
            file.write(f"output_dir: {directory}/run\nmodel: {{base: {base}, {stored}}}\ndata: {{train: {directory}/pairs.jsonl}}\n"
                       f"train: {{max_steps: {args.steps}, per_device_train_batch_size: 4, reference_cache: off}}\n")
        command = [args.binary, "train", "-c", directory + "/run.yaml"] + [part for s in args.set for part in ("--set", s)]
        plan = subprocess.run(command + ["--dry-run"], capture_output=True, text=True, check=True).stderr
        expected = int(re.search(r"expected peak memory (\d+) MB", plan).group(1))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"failed: {' '.join(command)}")
        measured = usage.ru_maxrss * 1024 / 1e6
        share = expected / measured
        worst = max(worst, share, 1 / share)
        print(f"{case:34} expected {expected:6} MB, measured {measured:6.0f} MB: {share:.2f}", flush=True)
print(f"furthest off: a factor of {worst:.2f}")
sys.exit(worst > 1.15)
