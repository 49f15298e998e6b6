"""Seconds per step of two builds of dpo-lora, alternating: python3 two_binaries.py OLD NEW --model DIR [--rounds 5] [--steps 4].

Prints the ratio new/old of the median step of each round: min, median, max. On a machine that others share, the fastest steps
and the processor's time say more: their ratios are printed too. The model directory needs a tokenizer.
"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import tempfile

WORDS = "the river bends around an old mill where nobody has lived for many years and the wheel still turns".split()


def pairs(count, prompt, answer):
    """`count` pairs with prompts and answers of about so many words."""
    text = lambda start, length: " ".join(WORDS[(start + i * 7) % len(WORDS)] for i in range(length))
    return "".join(
        json.dumps(dict(prompt=text(i, prompt), chosen=" " + text(i + 3, answer), rejected=" " + text(i + 5, answer))) + "\n"
        for i in range(count)
    )


def step(binary, model, data, steps, place):
    """The seconds of all steps but the first, and the processor's seconds of the run."""
    run = pathlib.Path(tempfile.mkdtemp(dir=place))
    settings = dict(output_dir=str(run / "run"), model=dict(base=str(model), device="cpu"), data=dict(train=str(data)),
                    train=dict(max_steps=steps + 1, logging_steps=1, reference_cache="off"))
    (run / "run.yaml").write_text(json.dumps(settings))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([binary, "-q", "train", "-c", str(run / "run.yaml")], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    lines = [json.loads(line) for line in (run / "run/metrics.jsonl").read_text().splitlines()]
    seconds = [line["step_seconds"] for line in lines if "step_seconds" in line]
    return seconds[1:], used


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=40)
    parser.add_argument("--answer", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = pathlib.Path(place) / "pairs.jsonl"
        data.write_text(pairs(64, options.prompt, options.answer))
        ratios, fastest, used = [], {options.old: [], options.new: []}, {options.old: [], options.new: []}
        for round_ in range(options.rounds):
            order = [options.old, options.new] if round_ % 2 == 0 else [options.new, options.old]
            median = {}
            for binary in order:
                seconds, processor = step(binary, options.model, data, options.steps, place)
                median[binary] = statistics.median(seconds)
                fastest[binary] += seconds
                used[binary].append(processor)
            ratios.append(median[options.new] / median[options.old])
            print(f"old {median[options.old]:.3f} s, new {median[options.new]:.3f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"new/old: min {min(ratios):.3f}, median {statistics.median(ratios):.3f}, max {max(ratios):.3f}")
    for name, of in [("fastest step", fastest), ("processor time of a run", used)]:
        old, new = min(of[options.old]), min(of[options.new])
        print(f"{name}: old {old:.3f} s, new {new:.3f} s, new/old {new / old:.3f}")



if __name__ == "__main__":
    main()
