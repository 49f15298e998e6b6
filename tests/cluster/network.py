#!/usr/bin/env python3
"""Two ranks in two network namespaces, with a slow or broken link between them. Needs root, `ip` and `tc` on Linux.

    python3 tests/cluster/network.py PROGRAM [--base BASE --data DATA --steps N]

For each link it prints the seconds of a step and the share of communication, as measured and as the simulator has it
(tests/benches/scaling_simulator.py), and checks that the adapter has the bytes of one rank. Then it cuts the link for 10 s, which a
run must survive, and for good, after which both ranks must end within 30 s with an error that names the other.
A kernel without netem has no delays; losses are then made by a filter (BPF).
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "benches"))
import scaling_simulator as simulator  # noqa: E402

SPACES = ["dpo-rank-0", "dpo-rank-1"]
ADDRESSES = ["10.213.0.1", "10.213.0.2"]


def call(*words, check=True):
    return subprocess.run(words, check=check, capture_output=True, text=True)


def connect():
    disconnect()
    for space in SPACES:
        call("ip", "netns", "add", space)
        call("ip", "-n", space, "link", "set", "lo", "up")
    call("ip", "link", "add", "dpo0", "netns", SPACES[0], "type", "veth", "peer", "name", "dpo1", "netns", SPACES[1])
    for i, space in enumerate(SPACES):
        call("ip", "-n", space, "addr", "add", f"{ADDRESSES[i]}/24", "dev", f"dpo{i}")
        call("ip", "-n", space, "link", "set", f"dpo{i}", "up")


def disconnect():
    for space in SPACES:
        call("ip", "netns", "del", space, check=False)


def tc(i, *words, check=True):
    return call("ip", "netns", "exec", SPACES[i], "tc", *words, check=check)


def shape(gbit, delay, loss):
    """Limits both directions; returns the delay that the kernel could make."""
    for i in range(2):
        tc(i, "qdisc", "del", "dev", f"dpo{i}", "root", check=False)
        tc(i, "qdisc", "del", "dev", f"dpo{i}", "clsact", check=False)
    made = delay
    for i in range(2):
        device = f"dpo{i}"
        words = ["qdisc", "add", "dev", device, "root", "netem", "delay", f"{delay}s", "loss", f"{100 * loss}%", "rate", f"{gbit}gbit"]
        if tc(i, *words, "limit", "20000", check=False).returncode == 0:
            continue
        made = 0.0
        tc(i, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{int(gbit * 1e9)}bit", "burst", "256kb", "latency", "50ms")
        if loss:
            # ld [rand]; jge 1-loss drop: a packet in so many is dropped.
            program = f"4,32 0 0 4294963256,53 1 0 {int(loss * 2**32)},6 0 0 2,6 0 0 0"
            tc(i, "qdisc", "add", "dev", device, "clsact")
            tc(i, "filter", "add", "dev", device, "egress", "bpf", "da", "bytecode", program)
    return made


def start(program, rank, directory, words):
    environment = dict(
        os.environ, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR=ADDRESSES[0], MASTER_PORT="29511", RAYON_NUM_THREADS="1",
        XDG_CACHE_HOME=str(directory / f"cache-{rank}"),
    )
    log = open(directory / f"rank-{rank}.log", "w")
    return subprocess.Popen(["ip", "netns", "exec", SPACES[rank], program, "train", *words], env=environment, stderr=log, stdout=log, cwd=directory)


def settings(args, run, steps, accumulation):
    given = {
        "output_dir": run, "model.base": args.base, "data.train": args.data, "train.max_steps": steps, "train.threads": 1,
        "train.per_device_train_batch_size": args.batch, "train.gradient_accumulation_steps": accumulation, "train.logging_steps": 1,
        "train.sample_prompts": 0, "train.save_steps": 5, "lora.r": args.rank, "model.device": "cpu", "train.learning_rate": 1e-5,
    }
    words = []
    for key, value in given.items():
        words += ["--set", f"{key}={value}"]
    return words


def seconds(directory, run):
    lines = [json.loads(line) for line in (directory / run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step_seconds"] for line in lines if "step_seconds" in line]
    # The first steps compute the reference and touch the weights for the first time.
    return steps[2:]


def adapter(directory, run):
    return (directory / run / "adapter" / "adapter_model.safetensors").read_bytes()


def both(args, directory, run, steps, meanwhile=None):
    words = settings(args, run, steps, 1)
    ranks = [start(args.program, rank, directory, words) for rank in range(2)]
    if meanwhile:
        meanwhile(ranks)
    codes = [rank.wait() for rank in ranks]
    return codes, [(directory / f"rank-{rank}.log").read_text() for rank in range(2)]


def wait_for_steps(directory, run, count):
    path = directory / run / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < count:
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--base", default="tiny-reviews")
    parser.add_argument("--data", default="tiny-reviews/train.jsonl")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    args.program = str(pathlib.Path(args.program).resolve())
    for name in ("base", "data"):
        if os.path.exists(getattr(args, name)):
            setattr(args, name, str(pathlib.Path(getattr(args, name)).resolve()))
    directory = pathlib.Path(tempfile.mkdtemp())
    failed = []
    try:
        connect()
        environment = dict(os.environ, XDG_CACHE_HOME=str(directory / "cache-0"))
        words = settings(args, "whole", args.steps, 2)
        subprocess.run([args.program, "train", *words], check=True, cwd=directory, env=environment, capture_output=True)
        size = 4 * trained(directory)
        print(f"gradient {size / 1e6:.1f} MB")
        unlimited = None
        for name, gbit, delay, loss in [
            ("not limited", 100, 0, 0), ("1 Gbit/s, 1 ms", 1, 1e-3, 0), ("100 Mbit/s, 1 % loss", 0.1, 0, 0.01),
        ]:
            made = shape(gbit, delay, loss) if gbit < 100 else 0
            run = f"run-{gbit}"
            codes, logs = both(args, directory, run, args.steps)
            if codes != [0, 0]:
                failed.append(f"{name}: {codes}\n{logs[0]}\n{logs[1]}")
                continue
            if adapter(directory, run) != adapter(directory, "whole"):
                failed.append(f"{name}: the bytes are not those of one rank")
            found = statistics.median(seconds(directory, run))
            if unlimited is None:
                unlimited = found
                print(f"{name}: step {found:.3f} s")
                continue
            # What the ranks compute is measured on the link without a limit, whose communication the simulator knows.
            compute = unlimited - simulator.communication(2, size, 100, 0)
            expected, waits = simulator.step(2, size, compute, gbit, made, loss)
            print(
                f"{name} (delay {1e3 * made:g} ms): step {found:.3f} s, simulated {expected:.3f} s ({100 * (found / expected - 1):+.0f} %); "
                f"communication {100 * (1 - compute / found):.0f} %, simulated {100 * waits / expected:.0f} %"
            )
        shape(1, 0, 0)

        def cut(seconds):
            def act(_):
                wait_for_steps(directory, "cut", 3)
                call("ip", "-n", SPACES[1], "link", "set", "dpo1", "down")
                time.sleep(seconds)
                call("ip", "-n", SPACES[1], "link", "set", "dpo1", "up")
            return act

        codes, logs = both(args, directory, "cut", args.steps, cut(10))
        print(f"cut for 10 s: exit codes {codes}")
        if codes != [0, 0] or adapter(directory, "cut") != adapter(directory, "whole"):
            failed.append(f"a cut of 10 s: {codes}\n{logs[0]}\n{logs[1]}")
        shutil.rmtree(directory / "cut", ignore_errors=True)

        def cut_for_good(ranks):
            wait_for_steps(directory, "cut", 3)
            call("ip", "-n", SPACES[1], "link", "set", "dpo1", "down")
            begun = time.time()
            for rank in ranks:
                rank.wait()
            print(f"cut for good: both have ended after {time.time() - begun:.1f} s")
            if time.time() - begun > 30:
                failed.append("a link that is cut for good ends the ranks too late")

        codes, logs = both(args, directory, "cut", 100000, cut_for_good)
        for rank, other in [(0, 1), (1, 0)]:
            if codes[rank] != 1 or f"rank {other} of 2 (host" not in logs[rank]:
                failed.append(f"a link that is cut for good: rank {rank} ended with {codes[rank]}:\n{logs[rank]}")
    finally:
        disconnect()
        shutil.rmtree(directory, ignore_errors=True)
    for failure in failed:
        print(f"error: {failure}")
    sys.exit(1 if failed else 0)


def trained(directory):
    """The number of trained parameters, from the header of the adapter."""
    content = adapter(directory, "whole")
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    count = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for length in tensor["shape"]:
                size *= length
            count += size
    return count


if __name__ == "__main__":
    main()
