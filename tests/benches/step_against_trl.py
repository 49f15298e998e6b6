#!/usr/bin/env python3
"""Whole training steps against TRL's DPOTrainer: the same machine, model, pairs, batch, rank and dtype, runs alternating.

    python step_against_trl.py --binary target/release/dpo-lora --python V/bin/python --model MODEL \
        --data short --dtype bf16 [--trl-dtype f32] [--steps 4] [--rounds 2] [--pairs FOLDER]

MODEL is a model directory, such as tests/device/make_models.py makes; V an environment with torch, trl and peft, in which
trl_cpu.py runs. FOLDER has pairs_short.jsonl and pairs_long.jsonl; without it, tests/device/make_data.py makes them.
Compares equal step indices (the same pairs), without the first of each run, which is cold; prints seconds, ratios
(min/median/max) and peak resident sets. Our reference cache is off, so every step makes its reference pass. With
TRL_ONEDNN=1, TRL computes f32 products with oneDNN. --trl-dtype gives TRL another type: f32 where it is faster there.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, tempfile

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("binary", "python", "model"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--data", choices=["short", "long"], default="short")
parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
parser.add_argument("--trl-dtype", choices=["bf16", "f32"])
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--rounds", type=int, default=2)
parser.add_argument("--pairs", metavar="FOLDER")
parser.add_argument("--tcmalloc", default="/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")
args = parser.parse_args()
here = pathlib.Path(__file__).resolve().parent
made = tempfile.TemporaryDirectory()
if not args.pairs:
    subprocess.run([sys.executable, here.parent / "device" / "make_data.py", made.name], check=True, stdout=subprocess.DEVNULL)
model, data = args.model.rstrip("/"), os.path.join(args.pairs or made.name, f"pairs_{args.data}.jsonl")


def run(command, env):
    """Standard output and peak resident set in MB of one process."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        if status:
            sys.exit(f"failed: {' '.join(command)}")
        return out.read().decode(), usage.ru_maxrss / 1024


def ours():
    with tempfile.TemporaryDirectory() as directory:
        sets = {"output_dir": directory + "/run", "train.max_steps": args.steps, "train.per_device_train_batch_size": 4,
                "train.learning_rate": 5e-5, "train.lr_scheduler_type": "constant", "train.shuffle": "false",
                "train.logging_steps": 1, "train.reference_cache": "off", "model.dtype": args.dtype}
        config = os.path.join(directory, "run.yaml")
        with open(config, "w") as file:
            file.write(f"model: {{base: {model}}}\ndata: {{train: {data}}}\nlora: {{r: 16, lora_alpha: 32}}\n")
        command = [args.binary, "-q", "train", "-c", config]
        command += [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
        _, peak = run(command, dict(os.environ))
        lines = [json.loads(line) for line in open(directory + "/run/metrics.jsonl")]
        return [line["step_seconds"] for line in lines], [line["loss"] for line in lines], peak


def trl():
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
    if os.path.exists(args.tcmalloc):
        env["LD_PRELOAD"] = args.tcmalloc
    command = [args.python, str(here / "trl_cpu.py"), "--model", model, "--data", data, "--dtype", args.trl_dtype or args.dtype,
               "--steps", str(args.steps)]
    command += ["--onednn"] if os.environ.get("TRL_ONEDNN") else []
    out, peak = run(command, env)
    result = json.loads(out.strip().splitlines()[-1])
    return result["step_s"], result["losses"], peak


ratios, mine, theirs, peaks = [], [], [], []
for _ in range(args.rounds):
    (a, a_loss, a_peak), (b, b_loss, b_peak) = ours(), trl()
    mine, theirs = mine + a[1:], theirs + b[1:]
    ratios += [y / x for x, y in zip(a[1:], b[1:])]
    peaks.append((a_peak, b_peak))
    print(f"ours {[round(x, 2) for x in a]}  TRL {[round(x, 2) for x in b]}  first losses {a_loss[0]:.5f} {b_loss[0]:.5f}", flush=True)
spread = lambda x: f"min {min(x):.2f}  median {statistics.median(x):.2f}  max {max(x):.2f}"
dtypes = args.dtype if args.trl_dtype in (None, args.dtype) else f"{args.dtype} against {args.trl_dtype}"
print(f"{os.path.basename(model)} {args.data} {dtypes}: seconds a step: ours {spread(mine)} | TRL {spread(theirs)}")
print(f"speed-up: {spread(ratios)}   peak RSS MB: ours {max(p[0] for p in peaks):.0f}, TRL {max(p[1] for p in peaks):.0f}, "
      f"share {max(p[0] for p in peaks) / max(p[1] for p in peaks):.2f}")
