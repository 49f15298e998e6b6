#!/usr/bin/env python3
"""Time of a training step on several ranks, and the share of it that is communication.

    python3 tests/benches/scaling_simulator.py                      the tables of docs/src/cluster.md
    python3 tests/benches/scaling_simulator.py --ranks 8 --bytes 35e6 --compute 4.2 --gbit 10 --latency 1e-4

The model is that of src/ranks/: a step has one exchange of figures (rank 0 receives from all and sends to all), one sum of the
gradient (in pieces of 256 KiB from rank to rank and back, both ways at once), and one exchange of a hash. tests/cluster/network.py
compares it with measured steps. Needs no packages.

The last table is what would be saved at most if the sum began before the last backward pass has ended: its gradients are finished
block by block, from the last block to the first, so that the sum can hide behind that pass at best.
"""
import argparse
import math
import random

PIECE = 1 << 18  # bytes of a piece of the gradient
FRAME = 42       # bytes of a hash and its lengths
FIGURES = 5 * 8 + 8 * 8  # bytes of the figures of a micro-batch of four pairs with a reference, about
WAKE = 1.5e-4    # seconds until a rank notices what has arrived (its thread sleeps between)
PACKET = 1500    # bytes of an IP packet
HEADERS = 52     # bytes of it that are headers of IP and TCP
ETHERNET = 38    # bytes that Ethernet adds to a packet
WINDOW = 10      # packets that TCP sends at first, and again after a pause
BACKWARD = 0.5   # of a pass that is the backward pass (without gradients of the base's weights)
ADD = 4e9        # bytes per second at which a rank reads, adds and writes a piece

# name: (trained parameters at r = 16 on all linear modules, parameters of the base)
MODELS = {"0.5B": (8.8e6, 0.5e9), "1.5B": (18.5e6, 1.5e9), "8B": (41.9e6, 8e9), "32B": (134e6, 32e9), "70B": (207e6, 70e9)}
RANKS = [2, 8, 64, 256, 1024]
GBIT = [1, 10, 100, 400]


def exchange(ranks, each, rate, latency):
    """Seconds in which rank 0 has received `each` bytes from all and sent all of them to all."""
    received = (ranks - 1) * each / rate
    sent = (ranks - 1) * ranks * each / rate
    return received + sent + 2 * (latency + WAKE)


def slow_start(rate, latency, packet):
    """Seconds that TCP loses while its window grows, after it was idle during the computation."""
    return 2 * latency * math.log2(max(1.0, 2 * latency * rate / (WINDOW * (packet - HEADERS))))


def payload(gbit, packet=PACKET):
    """Bytes per second of a link that are payload."""
    return gbit * 1e9 / 8 * (packet - HEADERS) / (packet + ETHERNET)


def total(ranks, size, rate, latency, packet=PACKET):
    """Seconds of the sum of a gradient of `size` bytes: the last piece leaves after all others, and passes every link twice."""
    pieces = max(1, math.ceil(size / PIECE))
    piece = min(size, PIECE)
    hop = piece / rate + latency + WAKE + piece / ADD
    return (pieces - 1) * max(piece / rate, piece / ADD) + 2 * (ranks - 1) * hop + slow_start(rate, latency, packet)


def lossy(gbit, latency, loss, packet):
    """The payload that TCP carries per second on a link with losses (Mathis et al. 1997), at most that of the link. The constant is that
    of network.py's link; the formula's own is 0.87 with delayed acknowledgements. A packet and its acknowledgement, behind a packet of
    the other direction, add to the round trip."""
    rate = payload(gbit, packet)
    if loss == 0:
        return rate
    round_trip = 2 * (latency + 8 * (packet + ETHERNET) / (gbit * 1e9))
    return min(rate * (1 - loss), 0.8 * (packet - HEADERS) / (round_trip * math.sqrt(loss)))


def communication(ranks, size, gbit, latency, loss=0.0, micro_batches=None, packet=PACKET):
    """Seconds of communication of a step."""
    if ranks == 1:
        return 0.0
    rate = lossy(gbit, latency, loss, packet)
    figures = FIGURES * (micro_batches or ranks) / ranks
    # The last packet of a message that is lost is sent again after 200 ms.
    tail = 0.2 * loss * 6
    exchanges = exchange(ranks, figures, rate, latency) + exchange(ranks, FRAME, rate, latency)
    return exchanges + total(ranks, size, rate, latency, packet) + tail


def hidden(ranks, size, compute, gbit, latency, each=1):
    """Seconds of communication that an overlap with the last backward pass would hide at most, if a rank has `each` micro-batches."""
    rate = payload(gbit)
    return min(total(ranks, size, rate, latency), BACKWARD * compute / each) if ranks > 1 else 0.0


def slowest(ranks, each, spread, seed=1):
    """The largest share of work, over the mean, if micro-batches vary by `spread` (a standard deviation over the mean) and each
    rank has `each` of them."""
    if spread == 0:
        return 1.0
    draw = random.Random(seed)
    found = []
    for _ in range(max(8, 2000 // ranks)):
        loads = [sum(max(0.1, draw.gauss(1, spread)) for _ in range(each)) for _ in range(ranks)]
        found.append(max(loads) / (sum(loads) / ranks))
    return sum(found) / len(found)


def step(ranks, size, compute, gbit, latency, loss=0.0, each=1, spread=0.0, packet=PACKET):
    """Seconds of a step and its communication, if a rank computes `compute` seconds."""
    waits = communication(ranks, size, gbit, latency, loss, ranks * each, packet)
    return compute * slowest(ranks, each, spread) + waits, waits


def tables(flops, tokens, spread):
    # Two forward passes' worth and one backward pass without weight gradients, with the reference cached.
    print(f"Seconds of communication per step, and the efficiency: a rank computes {tokens} tokens per step at {flops / 1e12:g} TFLOP/s;")
    print(f"micro-batches vary by {spread:.0%}; latency 0.1 ms at 1 and 10 Gbit/s, 0.02 ms above.\n")
    heads = " | ".join(f"{gbit} Gbit/s" for gbit in GBIT)
    print(f"| base | gradient | compute | ranks | {heads} |\n|---|---|---|---|" + "---|" * len(GBIT))
    for name, (trained, base) in MODELS.items():
        compute = 4 * base * tokens / flops
        for ranks in RANKS:
            cells = []
            for gbit in GBIT:
                latency = 1e-4 if gbit <= 10 else 2e-5
                time, waits = step(ranks, 4 * trained, compute, gbit, latency, spread=spread)
                cells.append(f"{waits:.2f} s, {100 * compute / time:.0f} %")
            lead = f"{name} | {4 * trained / 1e6:.0f} MB | {compute:.1f} s" if ranks == RANKS[0] else "| |"
            print(f"| {lead} | {ranks} | " + " | ".join(cells) + " |")
    print("\nEfficiency without any communication, if micro-batches vary (standard deviation over mean):\n")
    print("| micro-batches of a rank | variation | " + " | ".join(f"{ranks} ranks" for ranks in RANKS) + " |")
    print("|---|---|" + "---|" * len(RANKS))
    for each in (1, 4):
        for variation in (0.1, 0.3):
            cells = [f"{100 / slowest(ranks, each, variation):.0f} %" for ranks in RANKS]
            print(f"| {each} | {variation:.0%} | " + " | ".join(cells) + " |")
    print("\nWhat an overlap with the last backward pass would save of a step at most:\n")
    print(f"| base | micro-batches of a rank | ranks | {heads} |\n|---|---|---|" + "---|" * len(GBIT))
    for name, (trained, base) in MODELS.items():
        compute = 4 * base * tokens / flops
        for each in (1, 4):
            for ranks in (2, 64):
                cells = []
                for gbit in GBIT:
                    latency = 1e-4 if gbit <= 10 else 2e-5
                    time, _ = step(ranks, 4 * trained, compute, gbit, latency, each=each)
                    cells.append(f"{100 * hidden(ranks, 4 * trained, compute, gbit, latency, each) / time:.1f} %")
                print(f"| {name} | {each} | {ranks} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--bytes", type=float, default=35e6, help="of the gradient: four for each trained parameter")
    parser.add_argument("--compute", type=float, default=4.0, help="seconds that one rank computes in a step")
    parser.add_argument("--gbit", type=float, default=10.0)
    parser.add_argument("--latency", type=float, default=1e-4, help="seconds, one way")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--spread", type=float, default=0.0, help="of the tokens of micro-batches: standard deviation over mean")
    parser.add_argument("--flops", type=float, default=2e12)
    parser.add_argument("--tokens", type=int, default=3200)
    args = parser.parse_args()
    if args.ranks is None:
        tables(args.flops, args.tokens, args.spread)
        return
    time, waits = step(args.ranks, args.bytes, args.compute, args.gbit, args.latency, args.loss, spread=args.spread)
    print(f"step {time:.3f} s, communication {waits:.3f} s ({100 * waits / time:.1f} %), efficiency {100 * args.compute / time:.0f} %")


if __name__ == "__main__":
    main()
