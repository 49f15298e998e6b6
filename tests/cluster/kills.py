#!/usr/bin/env python3
"""Kills a rank of a run again and again, and resumes on another number of ranks. Needs Linux; no packages.

    python3 tests/cluster/kills.py PROGRAM [--kills 40] [--seed 1] [--mpi] [--stops]

Each life of the run has two, three or four ranks on this machine and is resumed from what the one before left; each rank is killed in
turn, at a moment that the seed chooses: right after the start, in the first steps after a checkpoint, or later. The others must end
within 30 s with exit code 1 and an error that names the rank. After all kills the run is finished on another number of ranks: adapter
and metrics must have the bytes of a run of one process that was never killed.

--mpi starts the ranks by mpirun (a program with the feature `mpi`) instead of over TCP. --stops also stops each of three ranks by
SIGSTOP, with the default time-out: the others must have ended after 30 s.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ALL = 12  # micro-batches of a step: they divide among 2, 3 and 4 ranks
FIRST = 3  # ranks of the first life, whose accumulation the configuration has
MOST = 30.0  # seconds until all have ended


class Run:
    def __init__(self, args, place):
        self.args, self.place = args, place
        self.started = []
        self.mark = f"{os.getpid()}-{time.time_ns()}"

    def write(self, accumulation):
        settings = dict(
            output_dir="run", model=dict(base="tiny-reviews", device="cpu"),
            data=dict(train="tiny-reviews/train.jsonl", eval="tiny-reviews/eval.jsonl"), lora=dict(r=4, lora_dropout=0.1),
            train=dict(
                max_steps=self.args.steps, save_steps=2, eval_steps=50, logging_steps=1, threads=1, sample_prompts=0,
                per_device_train_batch_size=1, gradient_accumulation_steps=accumulation, learning_rate=2e-5,
            ),
        )
        (self.place / "run.yaml").write_text(json.dumps(settings))

    def environment(self, **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMI", "SLURM"))}
        return dict(kept, XDG_CACHE_HOME=str(self.place / "cache"), DPO_LORA_KILLS=self.mark, **more)

    def start(self, ranks, *words):
        """Starts ranks; returns the processes that are waited for."""
        command = [self.args.program, "train", *(words or ["-c", "run.yaml", "--auto-resume"])]
        if self.args.mpi:
            command = ["mpirun", "-n", str(ranks), *command]
            environments = [self.environment(
                OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                OMPI_MCA_hwloc_base_binding_policy="none",
            )]
        else:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                port = str(listener.getsockname()[1])
            here = dict(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            environments = [self.environment(RANK=str(rank), **here) for rank in range(ranks)]
        pipes = dict(cwd=self.place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        started = [subprocess.Popen(command, env=environment, **pipes) for environment in environments]
        self.started += started
        return started

    def end(self):
        """Ends what still runs."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def process_of(self, started, rank):
        """The process id of a rank, once its environment can be read."""
        if not self.args.mpi:
            return started[rank].pid
        wanted = [f"DPO_LORA_KILLS={self.mark}".encode()]
        ranks = [f"OMPI_COMM_WORLD_RANK={rank}".encode(), f"PMI_RANK={rank}".encode()]
        for _ in range(2000):
            for entry in os.listdir("/proc"):
                try:
                    found = pathlib.Path("/proc", entry, "environ").read_bytes().split(b"\0") if entry.isdigit() else []
                except OSError:
                    continue
                if all(part in found for part in wanted) and any(part in found for part in ranks):
                    return int(entry)
            time.sleep(0.005)
        sys.exit(f"rank {rank} is not found")

    def lines(self):
        path = self.place / "run" / "metrics.jsonl"
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    def checkpoints(self):
        return {path.name for path in (self.place / "run" / "checkpoints").glob("step-*")}

    def wait_for(self, what, started):
        begun = time.time()
        while not what():
            if any(process.poll() is not None for process in started):
                return False
            if time.time() - begun > 120:
                sys.exit("the run makes no progress")
            time.sleep(0.002)
        return True

    def strike(self, started, rank, how):
        """Sends a signal to a rank; returns the seconds until the others have ended, and what was wrong with that."""
        victim = self.process_of(started, rank)
        os.kill(victim, how)
        begun = time.time()
        waited = [process for i, process in enumerate(started) if self.args.mpi or i != rank]
        said = [process.communicate(timeout=120)[1] for process in waited]
        seconds = time.time() - begun
        if not self.args.mpi:
            os.kill(victim, signal.SIGKILL)
            started[rank].communicate()
        wrong = [f"they ended after {seconds:.0f} s"] if seconds > MOST else []
        for process, text in zip(waited, said):
            # mpirun itself names a process that was killed.
            if process.returncode == 0 or not self.args.mpi and process.returncode != 1 or f"rank {rank}" not in text:
                wrong.append(f"one ended with {process.returncode}: {text}")
        return seconds, wrong


def outcome(place, run):
    lines = [json.loads(line) for line in (place / run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ["step_seconds", "tokens_per_second", "memory_gb", "peak_memory_gb", "time"]:
            line.pop(name, None)
    return (place / run / "adapter" / "adapter_model.safetensors").read_bytes(), lines


def kills(run, args):
    """Kills ranks; returns what was wrong."""
    draw, wrong, slowest, moments = random.Random(args.seed), [], 0.0, dict.fromkeys(["start", "checkpoint", "later"], 0)
    victims = [0] * 4
    for life in range(args.kills):
        ranks = FIRST if life == 0 else 2 + (life + draw.randrange(2)) % 3
        victim, moment = life % ranks, "later" if life == 0 else draw.choice(list(moments))
        before, lines = run.checkpoints(), run.lines()
        started = run.start(ranks)
        alive = True
        if moment == "start":
            # All have met by then, and rank 0 waits for no one else.
            time.sleep(draw.uniform(0.3, 1.0))
        elif moment == "checkpoint":
            alive = run.wait_for(lambda: run.checkpoints() - before, started)
            time.sleep(draw.uniform(0, 0.01))
        else:
            alive = run.wait_for(lambda: run.checkpoints() - before and run.lines() > lines + 1, started)
            time.sleep(draw.uniform(0, 0.3))
        if not alive or any(process.poll() is not None for process in started):
            wrong.append(f"life {life + 1}: the run has ended by itself: {[process.communicate()[1] for process in started]}")
            break
        seconds, found = run.strike(started, victim, signal.SIGKILL)
        slowest, victims[victim], moments[moment] = max(slowest, seconds), victims[victim] + 1, moments[moment] + 1
        wrong += [f"life {life + 1}, rank {victim} of {ranks} killed ({moment}): {text}" for text in found]
        print(f"life {life + 1}: rank {victim} of {ranks} killed ({moment}) at step {run.lines()}; the others ended after {seconds:.2f} s", flush=True)
    print(f"killed by rank: {victims}; by moment: {moments}; the others ended after {slowest:.2f} s at most")
    return wrong


def stops(run):
    """Stops each of three ranks; returns what was wrong."""
    wrong = []
    for victim in range(3):
        lines = run.lines()
        started = run.start(3)
        if not run.wait_for(lambda: run.lines() > lines + 1, started):
            return [f"the run has ended by itself: {[process.communicate()[1] for process in started]}"]
        seconds, found = run.strike(started, victim, signal.SIGSTOP)
        wrong += [f"rank {victim} of 3 stopped: {text}" for text in found]
        print(f"rank {victim} of 3 stopped; the others ended after {seconds:.1f} s", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--mpi", action="store_true")
    parser.add_argument("--stops", action="store_true")
    args = parser.parse_args()
    args.program = str(pathlib.Path(args.program).resolve())
    place = pathlib.Path(tempfile.mkdtemp())
    run = Run(args, place)
    try:
        run.write(ALL)
        whole = [args.program, "-q", "train", "-c", "run.yaml", "--set", "output_dir=whole"]
        reference = subprocess.Popen(whole, cwd=place, env=run.environment(), stdout=subprocess.DEVNULL)
        if reference.wait():
            sys.exit("the run of one process failed")
        run.write(ALL // FIRST)
        wrong = kills(run, args) + (stops(run) if args.stops else [])
        if not wrong:
            for process in run.start(2, "--resume", "run"):
                text = process.communicate()[1]
                if process.returncode:
                    wrong.append(f"the rest of the run: {text}")
        if not wrong:
            for name, found, expected in zip(["adapter", "metrics"], outcome(place, "run"), outcome(place, "whole")):
                if found != expected:
                    wrong.append(f"the {name} is not that of the run of one process")
                else:
                    print(f"the {name} is that of the run of one process")
    finally:
        run.end()
        shutil.rmtree(place, ignore_errors=True)
    for text in wrong:
        print(f"error: {text}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
