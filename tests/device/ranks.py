"""The step `ranks` of measure.py: one process, two and four train the same records, and their adapters have the same bytes.

Processes share a card where there are fewer. With several cards NCCL is tried, too; on one card it refuses two ranks, and what
is wanted is an error that every rank reports.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess

from cases import CASES
from processes import Failed, tail


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def cards():
    """How many there are, by nvidia-smi."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 1
    return max(1, len(listed.stdout.splitlines()))


def train(bench, count, total=4, **variables):
    """`count` processes train with `total` micro-batches a step: their exit codes, logs, the adapter's hash, seconds a step."""
    case = dataclasses.replace(CASES[0], steps=6, sets=(f"train.gradient_accumulation_steps={total // count}", "model.device=auto"))
    command, run = bench.config(case)
    shutil.rmtree(run, ignore_errors=True)
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(count)} if count > 1 else {}
    started, logs = [], []
    for rank in range(count):
        own = world | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {})
        logs.append(bench.out / f"rank-{count}-{rank}.txt")
        with open(logs[-1], "w") as log:
            words = [bench.args.binary, *map(str, command)]
            started.append(subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | own | variables))
    seconds, _ = bench.limit(90)
    try:
        codes = [process.wait(seconds) for process in started]
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{count} ranks did not end in {seconds:.0f} s") from error
    finally:
        for process in started:
            process.kill()
    adapter, metrics = run / "adapter" / "adapter_model.safetensors", run / "metrics.jsonl"
    digest = hashlib.sha256(adapter.read_bytes()).hexdigest()[:12] if adapter.exists() else None
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    steps = [row["step_seconds"] for row in rows if "step_seconds" in row][2:]
    return codes, logs, digest, statistics.median(steps) if steps else None


def compare(bench):
    """Rows of the table for the memory of the host, and for NCCL."""
    found = {}
    for count in (1, 2, 4):
        codes, logs, found[count], step = train(bench, count)
        if any(codes):
            failed = next(rank for rank, code in enumerate(codes) if code)
            raise Failed(f"rank {failed} of {count}: {tail(logs[failed])}")
        print(f"{count} ranks: adapter {found[count]}, {step:.4f} s a step", flush=True)
    same = len(set(found.values())) == 1
    bench.judge("ranks, by the host", [("the same bytes", same)], " ".join(map(str, found.values())))
    count, several = 2, cards() > 1
    codes, logs, digest, _ = train(bench, count, DPO_LORA_NCCL="1")
    said = [tail(log) for log in logs]
    if several:
        used = "not by NCCL" not in logs[0].read_text(errors="replace")
        bench.judge("ranks, by NCCL", [("the same bytes", digest == found[2]), ("NCCL used", used)], f"{digest}; {said[0]}")
    else:
        refused = all(codes) and all("nccl" in line.lower() for line in said)
        bench.judge("NCCL with one card", [("all ranks say why", refused or digest == found[2])], f"{codes} {digest} {said[0]}")
