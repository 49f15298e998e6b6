#!/usr/bin/env python3
"""Two ranks in two network namespaces, with a slow or broken link between them. Needs root, `ip` and `tc` on Linux.

    python3 tests/cluster/network.py PROGRAM [--base BASE --data DATA --steps N --batch PAIRS] [--only links|cuts]

For each link it prints the seconds of a step and the share of communication, as measured and as the simulator has it
(tests/benches/scaling_simulator.py), and checks that the adapter has the bytes of one rank. Then it cuts the link for 10 s, which a
run must survive, and for good, after which both ranks must end within 30 s with an error that names the other.

The link is the kernel's (netem). A kernel without netem gets one in userspace (link.c, compiled here): it carries IP packets from one
namespace to the other and delays, limits and loses them, so that the TCP of both ends is the kernel's in either case.
Both namespaces use cubic, the default of most distributions.
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

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benches"))
import scaling_simulator as simulator  # noqa: E402

SPACES = ["dpo-rank-0", "dpo-rank-1"]
ADDRESSES = ["10.213.0.1", "10.213.0.2"]
# Name, Gbit/s, delay one way in s, share of lost packets, bytes of a packet. The large packets are for link.c, which needs
# a core for those of 1500 bytes at 1 Gbit/s both ways.
LINKS = [
    ("1 Gbit/s, 1 ms", 1, 1e-3, 0.0, 9000),
    ("100 Mbit/s, 1 ms", 0.1, 1e-3, 0.0, 1500), ("100 Mbit/s, 1 ms, 1 % loss", 0.1, 1e-3, 0.01, 1500),
]


def call(*words, check=True):
    return subprocess.run(words, check=check, capture_output=True, text=True)


class Kernel:
    """A pair of veth devices with netem."""

    name = "netem"

    def __init__(self):
        call("ip", "link", "add", "dpo0", "netns", SPACES[0], "type", "veth", "peer", "name", "dpo1", "netns", SPACES[1])
        self.set(1, 0, 0)

    def set(self, gbit, delay, loss):
        for i in range(2):
            words = ["delay", f"{delay}s", "loss", f"{100 * loss}%", "limit", "20000"] + (["rate", f"{gbit}gbit"] if gbit else [])
            call("ip", "netns", "exec", SPACES[i], "tc", "qdisc", "replace", "dev", f"dpo{i}", "root", "netem", *words)

    def cut(self):
        for i in range(2):
            call("ip", "netns", "exec", SPACES[i], "tc", "qdisc", "replace", "dev", f"dpo{i}", "root", "netem", "loss", "100%")

    def join(self):
        self.set(1, 0, 0)

    def close(self):
        pass


class Userspace:
    """link.c."""

    name = "link.c"

    def __init__(self, directory):
        program = directory / "link"
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, HERE / "link.c"], check=True)
        self.process = subprocess.Popen([program, SPACES[0], "dpo0", SPACES[1], "dpo1", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("the link does not start")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def set(self, gbit, delay, loss):
        self.say(f"set {gbit * 1e9} {delay} {loss}")

    def cut(self):
        self.say("cut")

    def join(self):
        self.say("join")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


MOST = 3600  # seconds that a run may take
IN_ONE_MACHINE = 20  # Gbit/s between two processes, about

ALLOWED = "net.ipv4.tcp_allowed_congestion_control"


def allow(names):
    """Lets namespaces use these algorithms of congestion control; returns those that they could use before."""
    before = call("sysctl", "-n", ALLOWED).stdout.strip()
    call("sysctl", "-q", "-w", f"{ALLOWED}={names}", check=False)
    return before


def connect(directory):
    for space in SPACES:
        call("ip", "netns", "add", space)
        call("ip", "-n", space, "link", "set", "lo", "up")
    try:
        link = Kernel()
    except subprocess.CalledProcessError:
        call("ip", "-n", SPACES[0], "link", "del", "dpo0", check=False)
        link = Userspace(directory)
    for i, space in enumerate(SPACES):
        call("ip", "-n", space, "addr", "add", f"{ADDRESSES[i]}/24", "dev", f"dpo{i}")
        call("ip", "-n", space, "link", "set", f"dpo{i}", "txqueuelen", "5000", "up")
        call("ip", "netns", "exec", space, "sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control=cubic")
    return link


def disconnect():
    for space in SPACES:
        call("ip", "netns", "del", space, check=False)


def start(args, rank, directory, words, apart):
    environment = dict(
        os.environ, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR=ADDRESSES[0] if apart else "127.0.0.1", MASTER_PORT="29511", RAYON_NUM_THREADS="1",
        XDG_CACHE_HOME=str(directory / f"cache-{rank}"),
    )
    log = open(directory / f"rank-{rank}.log", "w")
    command = ["ip", "netns", "exec", SPACES[rank if apart else 0], args.program, "train", *words]
    return subprocess.Popen(command, env=environment, stderr=log, stdout=log, cwd=directory)


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
    """The seconds of all steps but the first two, which read the weights and touch memory for the first time."""
    lines = [json.loads(line) for line in (directory / run / "metrics.jsonl").read_text().splitlines()]
    return [line["step_seconds"] for line in lines if "step_seconds" in line][2:]


def adapter(directory, run):
    return (directory / run / "adapter" / "adapter_model.safetensors").read_bytes()


def both(args, directory, run, steps, meanwhile=None, apart=True):
    words = settings(args, run, steps, 1)
    ranks = [start(args, rank, directory, words, apart) for rank in range(2)]
    try:
        if meanwhile:
            meanwhile(ranks)
        codes = [rank.wait(timeout=MOST) for rank in ranks]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
    return codes, [(directory / f"rank-{rank}.log").read_text() for rank in range(2)]


def wait_for_steps(directory, run, count, ranks):
    """Waits until a run has made steps. If its ranks have ended, their exit codes tell what is wrong."""
    path, begun = directory / run / "metrics.jsonl", time.time()
    while not path.exists() or len(path.read_text().splitlines()) < count:
        if any(rank.poll() is not None for rank in ranks):
            return
        if time.time() - begun > MOST:
            sys.exit("the run makes no progress")
        time.sleep(0.05)


def links(args, link, directory, size, alone):
    """Measures the links and compares them with the simulator; returns what failed."""
    failed = []
    codes, logs = both(args, directory, "free", args.steps, apart=False)
    if codes != [0, 0]:
        return [f"without a link: {codes}\n{logs[0]}\n{logs[1]}"]
    free = seconds(directory, "free")
    # What passes in one machine costs little.
    beside = simulator.communication(2, size, IN_ONE_MACHINE, 0)
    compute = statistics.mean(free) - beside
    print(f"without a link: step {compute + beside:.3f} s, of which one rank alone computes {alone:.3f} s", flush=True)
    for i, (name, gbit, delay, loss, packet) in enumerate(LINKS):
        link.set(gbit, delay, loss)
        for end, space in enumerate(SPACES):
            call("ip", "-n", space, "link", "set", f"dpo{end}", "mtu", str(packet))
        codes, logs = both(args, directory, f"run-{i}", args.steps)
        if codes != [0, 0]:
            failed.append(f"{name}: {codes}\n{logs[0]}\n{logs[1]}")
            continue
        if adapter(directory, f"run-{i}") != adapter(directory, "whole"):
            failed.append(f"{name}: the bytes are not those of one rank")
        # Both runs have the same steps, so that a difference is the link's.
        pairs = zip(seconds(directory, f"run-{i}"), free)
        waits = beside + statistics.median(limited - unlimited for limited, unlimited in pairs)
        found = compute + waits
        expected, simulated = simulator.step(2, size, compute, gbit, delay, loss, packet=packet)
        apart, share = found / expected - 1, (waits / found) / (simulated / expected) - 1
        print(
            f"{name}: step {found:.3f} s, simulated {expected:.3f} s ({100 * apart:+.0f} %); communication {waits:.3f} s "
            f"({100 * waits / found:.0f} %), simulated {simulated:.3f} s ({100 * simulated / expected:.0f} %; share {100 * share:+.0f} %)",
            flush=True,
        )
        if max(abs(apart), abs(share)) > 0.15:
            failed.append(f"{name}: the simulator is more than 15 % off")
    return failed


def cuts(args, link, directory):
    """Cuts the link for 10 s and for good; returns what failed."""
    failed = []
    link.set(1, 0, 0)

    def cut_for_a_while(ranks):
        wait_for_steps(directory, "cut", 3, ranks)
        link.cut()
        time.sleep(10)
        link.join()

    begun = time.time()
    codes, logs = both(args, directory, "cut", args.steps, cut_for_a_while)
    print(f"cut for 10 s: exit codes {codes}, after {time.time() - begun:.0f} s; the longest step took {max(seconds(directory, 'cut')):.1f} s", flush=True)
    if codes != [0, 0] or adapter(directory, "cut") != adapter(directory, "whole"):
        failed.append(f"a cut of 10 s: {codes}\n{logs[0]}\n{logs[1]}")
    shutil.rmtree(directory / "cut", ignore_errors=True)

    def cut_for_good(ranks):
        wait_for_steps(directory, "cut", 3, ranks)
        link.cut()
        begun = time.time()
        for rank in ranks:
            rank.wait(timeout=300)
        print(f"cut for good: both have ended after {time.time() - begun:.1f} s", flush=True)
        if time.time() - begun > 30:
            failed.append("a link that is cut for good ends the ranks too late")

    codes, logs = both(args, directory, "cut", 100000, cut_for_good)
    for rank, other in [(0, 1), (1, 0)]:
        if codes[rank] != 1 or f"rank {other} of 2 (host" not in logs[rank]:
            failed.append(f"a link that is cut for good: rank {rank} ended with {codes[rank]}:\n{logs[rank]}")
        print(f"rank {rank} said: {logs[rank].strip().splitlines()[-1]}")
    return failed


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--base", default="tiny-reviews")
    parser.add_argument("--data", default="tiny-reviews/train.jsonl")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--only", choices=["links", "cuts"])
    args = parser.parse_args()
    args.program = str(pathlib.Path(args.program).resolve())
    for name in ("base", "data"):
        if os.path.exists(getattr(args, name)):
            setattr(args, name, str(pathlib.Path(getattr(args, name)).resolve()))
    directory = pathlib.Path(tempfile.mkdtemp())
    failed, link, allowed = [], None, allow("reno cubic")
    try:
        disconnect()
        link = connect(directory)
        environment = dict(os.environ, XDG_CACHE_HOME=str(directory / "cache-0"))
        words = settings(args, "whole", args.steps, 2)
        subprocess.run([args.program, "train", *words], check=True, cwd=directory, env=environment, capture_output=True)
        size, alone = 4 * trained(directory), statistics.mean(seconds(directory, "whole")) / 2
        print(f"the link is made by {link.name}; gradient {size / 1e6:.1f} MB", flush=True)
        if args.only != "cuts":
            failed += links(args, link, directory, size, alone)
        if args.only != "links":
            failed += cuts(args, link, directory)
    finally:
        if link:
            link.close()
        disconnect()
        allow(allowed)
        shutil.rmtree(directory, ignore_errors=True)
    for failure in failed:
        print(f"error: {failure}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
