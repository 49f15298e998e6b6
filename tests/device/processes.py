"""Processes of measure.py: the memory that a GPU has in use, dpo-lora, and the peer."""

import dataclasses
import json
import pathlib
import select
import subprocess
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent


class Failed(Exception):
    """Something is off; the message says what."""


class NoTime(Exception):
    """The script's time is over."""


class Missing(Exception):
    """Something that a step needs is not there."""


def used():
    """MiB of the GPU that are in use; None without nvidia-smi."""
    command = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


class Memory(threading.Thread):
    """Asks for the memory in use again and again while a `with` lasts."""

    def __enter__(self):
        self.before, self.most, self.over = used(), 0, threading.Event()
        self.start()
        return self

    def run(self):
        while self.before is not None and not self.over.wait(0.05):
            self.most = max(self.most, used() or 0)

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def gigabytes(self):
        return None if self.before is None else max(0, self.most - self.before) * 2**20 / 1e9


@dataclasses.dataclass
class Ran:
    """How a command went."""

    code: int
    wall: float
    gigabytes: float  # None without nvidia-smi
    first: float  # seconds until `ready` was written to
    output: str


def tail(path):
    """The last line of a file, for a message."""
    lines = path.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return lines[-1][:200]


def execute(command, seconds, log, output=None, ready=None, kill=None):
    """Runs a command. Standard error goes to `log`, and standard output too if it has no file `output` of its own; the
    command is killed once the path `kill` is there. None if it did not end in its time."""
    first = None
    with Memory() as memory, open(log, "w") as errors, open(output or "/dev/null", "w") as file:
        start = time.monotonic()
        process = subprocess.Popen(list(map(str, command)), stdout=file if output else errors, stderr=errors)
        while process.poll() is None:
            took = time.monotonic() - start
            if took > seconds or (kill and kill.exists()):
                process.kill()
                process.wait()
            if first is None and ready and ready.exists() and ready.stat().st_size:
                first = took
            time.sleep(0.002)
        wall = time.monotonic() - start
    if wall > seconds and process.returncode:
        return None
    return Ran(process.returncode, wall, memory.gigabytes(), first, (output or log).read_text(errors="replace"))


class Peer:
    """trl_step.py, which stays and answers: importing its libraries takes longer than a case."""

    def __init__(self, python, log):
        with open(log, "w") as errors:
            command = [python, "-u", "-W", "ignore", HERE / "trl_step.py", "--serve"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.log, self.liger = log, False

    def has_ended(self):
        return self.process.poll() is not None

    def line(self, seconds):
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.end()
            raise Failed(f"no answer in {seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(tail(self.log))
        return json.loads(line)

    def ask(self, words, seconds):
        try:
            self.process.stdin.write(" ".join(words) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failed(tail(self.log)) from error
        found = self.line(seconds)
        if "error" in found:
            raise Failed(found["error"])
        return found

    def end(self):
        self.process.kill()
        self.process.wait()
