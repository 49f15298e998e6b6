"""A step's bf16 products on one core against oneDNN's in PyTorch, alternating, by the processor's time:
python3 products_against_torch.py OPS --python V/bin/python [--rounds 5]

OPS is the program that `cargo bench --bench ops --no-run` names; V is an environment with torch. Ours include a low-rank part
of rank 16 and give f32; torch's are the bare products and give bf16. Prints GFLOP/s, the best of the rounds, and the ratio.
"""
import argparse
import os
import subprocess

TORCH = """
import time, torch
torch.set_num_threads(1)
for m, n, k in [(768, 576, 576), (960, 1536, 576), (960, 576, 1536), (1600, 4864, 896), (1600, 896, 4864)]:
    rates = []
    for transposed in (True, False):
        x = torch.randn(m, k, dtype=torch.bfloat16)
        w = torch.randn(n, k, dtype=torch.bfloat16).t() if transposed else torch.randn(k, n, dtype=torch.bfloat16)
        begin, best = time.perf_counter(), 1e9
        while time.perf_counter() - begin < 0.7:
            before = time.process_time()
            x @ w
            best = min(best, time.process_time() - before)
        rates.append(2e-9 * m * n * k / best)
    print(f"{m} {n} {k}: {rates[0]:.0f} {rates[1]:.0f}")
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("ops")
parser.add_argument("--python", required=True)
parser.add_argument("--rounds", type=int, default=5)
options = parser.parse_args()
best = {}
for _ in range(options.rounds):
    for side, command in enumerate([[options.ops, "adapted"], [options.python, "-c", TORCH]]):
        env = dict(os.environ, RAYON_NUM_THREADS="1")
        for line in subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.splitlines():
            shape, rates = line.split(":")
            for way, rate in zip(("x·W'", "dy·W"), rates.split()):
                sides = best.setdefault((shape, way), [0.0, 0.0])
                sides[side] = max(sides[side], float(rate))
for (shape, way), (ours, torch) in best.items():
    print(f"{shape:>14} {way}: ours {ours:5.0f}, torch {torch:5.0f} GFLOP/s, ratio {ours / torch:.2f}")
