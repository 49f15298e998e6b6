"""The rows of docs/src/performance.md's table against TRL, each by step_against_trl.py, which alternates both sides:
python3 table_against_trl.py --binary target/release/dpo-lora --python V/bin/python --models FOLDER [--pairs FOLDER]

FOLDER has model directories (tests/device/make_models.py); those of `--names` that exist are measured, with short and long
pairs, in bf16, in f32 and, with `--avx2`, in both with both sides limited to AVX2, where TRL's f32 is its fastest. Names the processor. Measure on an idle
machine.
"""
import argparse
import os
import pathlib
import subprocess
import sys

AVX2 = dict(DPO_LORA_ISA="avx2", ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2")
NAMES = "smollm2-135m-shape gemma-3-270m qwen2.5-0.5b-shape"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("binary", "python", "models"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--names", default=NAMES)
parser.add_argument("--pairs", metavar="FOLDER")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--rounds", type=int, default=2)
parser.add_argument("--avx2", action="store_true")
args = parser.parse_args()


def processor():
    """The processor's name and number of cores."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else 'an unknown processor'}"


print(processor(), flush=True)
script = pathlib.Path(__file__).resolve().parent / "step_against_trl.py"
for name in args.names.split():
    model = pathlib.Path(args.models) / name
    if not model.is_dir():
        print(f"{name}: not there", flush=True)
        continue
    for data in ("short", "long"):
        for limits in [{}] + ([AVX2] if args.avx2 else []):
            for dtype in ("bf16", "f32"):
                print(f"\n{name}, {data}, {dtype}{', AVX2 on both sides' if limits else ''}", flush=True)
                command = [sys.executable, str(script), "--binary", args.binary, "--python", args.python,
                           "--model", str(model), "--data", data, "--dtype", dtype,
                           "--steps", str(args.steps), "--rounds", str(args.rounds)]
                command += ["--trl-dtype", "f32"] if limits else []
                command += ["--pairs", args.pairs] if args.pairs else []
                subprocess.run(command, check=True, env=dict(os.environ, **limits))
