"""What prefix tuning reaches at several learning rates: python3 prefix_rates.py BINARY [--rates 1e-3 1e-2 1e-1] [--seeds 1 2 3] [--projection].

Trains the embedded quickstart (125 steps of 16 pairs) with lora.prefix_tuning of 20 virtual tokens instead of LoRA, and prints for each rate the share of the 200 held-out pairs that the last evaluation
tells apart by reward, and its loss: the median over the seeds, with the least and the greatest. The first lines are LoRA with the quickstart's own rate. A reward here is relative to the base without
a prefix, and a random prefix changes what the policy writes from the start: "before" is the accuracy before the first step.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile


def run(binary, rate, seed, prefix):
    with tempfile.TemporaryDirectory() as place:
        settings = dict(
            output_dir=f"{place}/run", seed=seed, model=dict(base="tiny-reviews", device="cpu"), data=dict(train="tiny-reviews/train.jsonl", eval="tiny-reviews/eval.jsonl"), objective=dict(beta=0.5),
            train=dict(max_steps=125, per_device_train_batch_size=16, learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=10, reference_cache=f"{tempfile.gettempdir()}/prefix-rates"),
        )
        if prefix:
            settings["lora"] = dict(prefix_tuning=prefix)
        path = pathlib.Path(place) / "run.yaml"
        path.write_text(json.dumps(settings))
        # A rate that is far too high diverges.
        if subprocess.run([binary, "-q", "train", "-c", str(path)], stderr=subprocess.PIPE).returncode != 0:
            return None
        lines = [json.loads(line) for line in (pathlib.Path(place) / "run/metrics.jsonl").read_text().splitlines()]
        evaluations = [line for line in lines if "eval_loss" in line]
        return [evaluations[0]["eval_rewards/accuracies"], evaluations[-1]["eval_rewards/accuracies"], evaluations[-1]["eval_loss"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--projection", action="store_true")
    options = parser.parse_args()
    prefix = dict(num_virtual_tokens=20, prefix_projection=options.projection)
    print("| adapter | rate | accuracy before | accuracy | loss |\n|---|---|---|---|---|")
    for name, rate, settings in [("LoRA", 3e-4, None), *(("prefix", rate, prefix) for rate in options.rates)]:
        found = [run(options.binary, rate, seed, settings) for seed in options.seeds]
        if None in found:
            print(f"| {name} | {rate:g} | | {found.count(None)} of {len(found)} runs diverged | |", flush=True)
            continue
        shown = lambda values, form: f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
        before, after, loss = zip(*found)
        print(f"| {name} | {rate:g} | {shown(before, '.2f')} | {shown(after, '.2f')} | {shown(loss, '.3f')} |", flush=True)


if __name__ == "__main__":
    main()
