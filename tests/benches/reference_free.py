"""Seconds per step with and without a reference pass, alternating: python3 reference_free.py BINARY --model DIR [--rounds 5] [--steps 6].

Runs sigmoid with a cold cache of reference log-probs (every step makes a reference pass), sigmoid with a warm one, simpo with cpo_alpha 0, and orpo, on the same pairs in the same order, each in every
round and in another order. Prints, for each, the ratio of the median step of sigmoid (cold) to its own in the same round: min, median, max. The model directory needs a tokenizer.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

from two_binaries import pairs

OBJECTIVES = {
    "sigmoid, cold": dict(loss_type="sigmoid", beta=0.1),
    "sigmoid, warm": dict(loss_type="sigmoid", beta=0.1),
    "simpo": dict(loss_type="simpo", beta=2.0, cpo_alpha=0.0),
    "orpo": dict(loss_type="orpo", beta=0.1),
}


def run(options, name, data, cache, place):
    """The seconds of all steps but the first."""
    directory = pathlib.Path(tempfile.mkdtemp(dir=place))
    settings = dict(
        output_dir=str(directory / "run"), model=dict(base=str(options.model), device="cpu"), data=dict(train=str(data)), objective=OBJECTIVES[name],
        train=dict(max_steps=options.steps + 1, logging_steps=1, per_device_train_batch_size=4, reference_cache=str(cache), shuffle=False),
    )
    (directory / "run.yaml").write_text(json.dumps(settings))
    subprocess.run([options.binary, "-q", "train", "-c", str(directory / "run.yaml")], check=True)
    lines = [json.loads(line) for line in (directory / "run/metrics.jsonl").read_text().splitlines()]
    return [line["step_seconds"] for line in lines if "step_seconds" in line][1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--prompt", type=int, default=40)
    parser.add_argument("--answer", type=int, default=40)
    options = parser.parse_args()
    names, ratios = list(OBJECTIVES), {name: [] for name in OBJECTIVES}
    with tempfile.TemporaryDirectory() as place:
        # As many pairs as the steps take: none occurs twice.
        data, warm = pathlib.Path(place) / "pairs.jsonl", pathlib.Path(place) / "warm"
        data.write_text(pairs(4 * (options.steps + 1), options.prompt, options.answer))
        run(options, "sigmoid, warm", data, warm, place)
        for round_ in range(options.rounds):
            median = {}
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                cache = warm if name == "sigmoid, warm" else tempfile.mkdtemp(dir=place)
                median[name] = statistics.median(run(options, name, data, cache, place))
            for name in names:
                ratios[name].append(median["sigmoid, cold"] / median[name])
            print(", ".join(f"{name}: {median[name]:.3f} s" for name in names), flush=True)
    for name in names[1:]:
        of = ratios[name]
        print(f"sigmoid, cold / {name}: min {min(of):.2f}, median {statistics.median(of):.2f}, max {max(of):.2f}")


if __name__ == "__main__":
    main()
