"""Learning rates of every step by `transformers.optimization.get_scheduler`: `schedules.json`.

    python tests/parity/schedules.py tests/fixtures
"""
import sys
from pathlib import Path

import torch
from transformers import get_scheduler

from files import write_json

STEPS, PEAK = 17, 0.002
CASES = {
    "linear": [{}],
    "cosine": [{}, dict(num_cycles=1.5)],
    "constant": [{}],
    "constant_with_warmup": [{}],
    "cosine_with_restarts": [{}, dict(num_cycles=3)],
    "cosine_with_min_lr": [dict(min_lr=1e-4), dict(min_lr_rate=0.2, num_cycles=0.75)],
    "cosine_warmup_with_min_lr": [dict(min_lr=1e-4), dict(min_lr_rate=0.2, warmup_lr_rate=0.05)],
    "polynomial": [{}, dict(lr_end=1e-5, power=2.5)],
    "inverse_sqrt": [{}, dict(timescale=7)],
    "warmup_stable_decay": [
        dict(num_decay_steps=6), dict(num_decay_steps=30), dict(num_decay_steps=4, num_stable_steps=3, min_lr_ratio=0.1),
        dict(num_decay_steps=6, warmup_type="cosine", decay_type="1-sqrt"), dict(num_decay_steps=6, warmup_type="1-sqrt", decay_type="linear", min_lr_ratio=0.05),
    ],
}


def rates(name, warmup, kwargs):
    """The rate each step is taken with."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS, scheduler_specific_kwargs=dict(kwargs))
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return dict(name=name, warmup_steps=warmup, kwargs=kwargs, learning_rates=found)


if __name__ == "__main__":
    cases = [rates(name, warmup, kwargs) for name, variants in CASES.items() for kwargs in variants for warmup in (0, 1, 5)]
    write_json(Path(sys.argv[1]) / "schedules.json", dict(total_steps=STEPS, learning_rate=PEAK, cases=cases))
