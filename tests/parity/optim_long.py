"""Trajectories of optimizers by their own code, in f64 where that code allows it: `optim_long.json`.

    PYTHONPATH=DIRECTORIES python tests/parity/optim_long.py tests/fixtures

needs bitsandbytes 0.50 and schedulefree 1.4 beside torch. Three things are replaced, and nothing else: Muon's bf16 becomes f64 here, as
dpo-lora computes in f32; bitsandbytes' library for processors, which encodes numbers near 0 otherwise than its CUDA kernel, becomes the
nearest code with the sign of the number; and what is no matrix is given to `torch.optim.AdamW`, because Muon refuses it.
"""
import sys
from pathlib import Path

import bitsandbytes
import bitsandbytes.backends.cpu.ops as cpu
import schedulefree
import torch
import torch.optim._muon as muon

from files import write_json

SHAPES = [[3, 37], [40, 6], [5], [17, 300], [4099]]
SEED, STEPS, EVERY = 1234, 24, 13


def numbers(seed, count):
    state, out = seed, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % (1 << 31)
        out.append((state >> 7) % 4096 / 2048 - 1)
    return out


def split(flat, dtype):
    tensors, at = [], 0
    for shape in SHAPES:
        count = torch.Size(shape).numel()
        tensors.append(torch.tensor(flat[at:at + count], dtype=dtype).reshape(shape))
        at += count
    return tensors


def quantise(numbers, code, absmax, out, blocksize):
    """What the CUDA kernel stores."""
    padded = torch.nn.functional.pad(numbers.flatten(), (0, -numbers.numel() % blocksize)).view(-1, blocksize)
    most = padded.abs().amax(1)
    scaled = torch.where(most[:, None] > 0, padded / most[:, None], torch.zeros(())).flatten()[:numbers.numel()].contiguous()
    above = torch.searchsorted(code, scaled).clamp(max=255)
    below = (above - 1).clamp(min=0)
    codes = torch.where(scaled - code[below] <= code[above] - scaled, below, above)
    if code[0] < 0:
        wrong = torch.signbit(code[codes]) != torch.signbit(numbers.flatten())
        codes = torch.where(wrong, codes + torch.where(numbers.flatten() > 0, 1, -1), codes).clamp(0, 255)
    out.copy_(codes.to(torch.uint8).view_as(out))
    absmax.copy_(most)


def exact_dequantise(codes, absmax, code, blocksize):
    scale = absmax.repeat_interleave(blocksize)[:codes.numel()].view_as(codes)
    return code[codes.long()] * scale


class Double:
    """torch, whose `bfloat16` is `float64`."""

    bfloat16 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def muon_run(parameters, lr, betas, eps, weight_decay):
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay), torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)]


RUNS = {
    "lion": (torch.float32, lambda p, lr, **s: [bitsandbytes.optim.Lion(p, lr=lr, betas=s["betas"], weight_decay=s["weight_decay"])]),
    "schedule_free_adamw": (torch.float64, lambda p, lr, **s: [schedulefree.AdamWScheduleFree(p, lr=lr, foreach=False, **s)]),
    "adamw_8bit": (torch.float32, lambda p, lr, **s: [bitsandbytes.optim.AdamW8bit(p, lr=lr, **s)]),
    "muon": (torch.float64, lambda p, lr, **s: muon_run(p, lr, **s)),
}
SETTINGS = [dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0), dict(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)]


def run(name, settings, lr):
    dtype, make = RUNS[name]
    settings = dict(settings)
    if name == "schedule_free_adamw" and settings["weight_decay"]:
        settings["warmup_steps"] = 5
    count = sum(torch.Size(shape).numel() for shape in SHAPES)
    parameters = [torch.nn.Parameter(tensor) for tensor in split(numbers(SEED, count), dtype)]
    optimizers = make(parameters, lr, **settings)
    kept = []
    for step in range(STEPS):
        for p, gradient in zip(parameters, split(numbers(SEED + 1 + step, count), dtype)):
            p.grad = gradient
        for optimizer in optimizers:
            getattr(optimizer, "train", lambda: None)()
            optimizer.step()
            getattr(optimizer, "eval", lambda: None)()
        if step in (0, STEPS - 1):
            kept.append([round(x, 9) for x in torch.cat([p.detach().flatten() for p in parameters]).tolist()[::EVERY]])
    return dict(name=name, settings=settings, learning_rate=lr, first=kept[0], last=kept[1])


if __name__ == "__main__":
    cpu._quant_blockwise_fp32_direct, cpu._dequant_blockwise_fp32_direct = quantise, exact_dequantise
    muon.torch = Double()
    out = Path(sys.argv[1])
    runs = [run(name, settings, 0.01) for name in RUNS for settings in SETTINGS]
    write_json(out / "optim_long.json", dict(shapes=SHAPES, seed=SEED, steps=STEPS, every=EVERY, runs=runs))
