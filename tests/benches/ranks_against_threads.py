"""Two ranks of one thread against one process of two threads, alternating: python3 ranks_against_threads.py BINARY --model DIR
[--rounds 4] [--steps 4] [--prompt 40 --answer 40].

Both make the same steps of eight pairs, in four micro-batches of two: one process by an accumulation of 4, two ranks (over TCP, on
this machine) by one of 2. Prints the seconds of the median step of each round and the ratio of speeds: min, median, max. The
adapters must be equal to the byte. The model directory needs a tokenizer.
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

from two_binaries import pairs


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run(options, data, place, ranks):
    """The seconds of all steps but the first, and the adapter's bytes."""
    directory = pathlib.Path(tempfile.mkdtemp(dir=place))
    settings = dict(
        output_dir=str(directory / "run"), model=dict(base=str(options.model), device="cpu"), data=dict(train=str(data)),
        train=dict(max_steps=options.steps + 1, logging_steps=1, reference_cache="off", per_device_train_batch_size=2, gradient_accumulation_steps=4 // ranks, threads=2 // ranks),
    )
    (directory / "run.yaml").write_text(json.dumps(settings))
    command = [options.binary, "-q", "train", "-c", str(directory / "run.yaml")]
    port = free_port()
    one = lambda rank: dict(os.environ, RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    processes = [subprocess.Popen(command, env=one(rank), stdout=subprocess.DEVNULL) for rank in range(ranks)]
    if any([process.wait() for process in processes]):
        sys.exit("a run failed")
    lines = [json.loads(line) for line in (directory / "run/metrics.jsonl").read_text().splitlines()]
    seconds = [line["step_seconds"] for line in lines if "step_seconds" in line]
    return seconds[1:], (directory / "run/adapter/adapter_model.safetensors").read_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=40)
    parser.add_argument("--answer", type=int, default=40)
    options = parser.parse_args()
    ratios, adapters = [], set()
    with tempfile.TemporaryDirectory() as place:
        data = pathlib.Path(place) / "pairs.jsonl"
        data.write_text(pairs(64, options.prompt, options.answer))
        for round_ in range(options.rounds):
            median = {}
            for ranks in [1, 2] if round_ % 2 == 0 else [2, 1]:
                seconds, adapter = run(options, data, place, ranks)
                median[ranks] = statistics.median(seconds)
                adapters.add(adapter)
            ratios.append(median[1] / median[2])
            print(f"one process {median[1]:.3f} s, two ranks {median[2]:.3f} s, speed {ratios[-1]:.3f}", flush=True)
    print(f"speed of two ranks: min {min(ratios):.3f}, median {statistics.median(ratios):.3f}, max {max(ratios):.3f}")
    if len(adapters) != 1:
        sys.exit("the adapters differ")


if __name__ == "__main__":
    main()
