"""GRPO's and RLOO's losses and gradients by TRL's own `_compute_loss`, on random log-probs in f64: `on_policy.json`.

Each case is one micro-batch of a step of two; the log-probs stand in for the model's.
"""
import random
from collections import defaultdict
from types import SimpleNamespace

import torch
from trl import GRPOTrainer, RLOOTrainer

from files import write_json

LENGTHS = [5, 3, 7, 2]
MAX_COMPLETION_LENGTH = 9
# name → settings in TRL's names, which are ours
GROUPED = {
    "default": {}, "beta": dict(beta=0.3), "uncorrected": dict(beta=0.3, use_bias_correction_kl=False), "delta": dict(delta=1.4, epsilon_high=0.28),
    "sequence": dict(importance_sampling_level="sequence", beta=0.2), "masked": dict(masked=[1]),
}


def make_on_policy(out):
    rng = random.Random(5)
    cases = [grouped(rng, loss_type, settings) for loss_type in ("grpo", "dapo", "bnpo", "dr_grpo") for settings in GROUPED.values()]
    cases += [leave_one_out(rng, settings) for settings in ({}, dict(epsilon=0.1, epsilon_high=0.4))]
    write_json(out / "on_policy.json", cases)


def numbers(rng):
    draw = lambda scale, around=None: [[(around[i][t] if around else -1.5) + scale * rng.gauss(0, 1) for t in range(n)] for i, n in enumerate(LENGTHS)]
    old = draw(0.7)
    return dict(old_logps=old, logps=draw(0.25, old), ref_logps=draw(0.4, old), advantages=[rng.gauss(0, 1.2) for _ in LENGTHS])


def padded(lists, **more):
    width = max(LENGTHS)
    return torch.tensor([row + [0.0] * (width - len(row)) for row in lists], dtype=torch.float64, **more)


def stand_in(logps, mask, **settings):
    same = lambda x, **_: x
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None), aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        use_vllm=False, _entropy_bonus_enabled=False, vllm_importance_sampling_correction=False, current_gradient_accumulation_steps=2, max_completion_length=MAX_COMPLETION_LENGTH,
        accelerator=SimpleNamespace(gather=same, reduce=same, gather_for_metrics=same, num_processes=1, sync_gradients=True), model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)}, **settings,
    )


def inputs(given, mask):
    ids = torch.zeros(mask.shape, dtype=torch.long)
    return dict(
        prompt_ids=ids[:, :1], prompt_mask=ids[:, :1], completion_ids=ids, completion_mask=mask, advantages=torch.tensor(given["advantages"], dtype=torch.float64),
        old_per_token_logps=padded(given["old_logps"]), ref_per_token_logps=padded(given["ref_logps"]), old_logps=(padded(given["old_logps"]) * mask).sum(1),
        num_items_in_batch=torch.tensor(31.0, dtype=torch.float64),
    )


def solved(trainer, given, masked, settings):
    mask = torch.tensor([[int(t < n and i not in masked) for t in range(max(LENGTHS))] for i, n in enumerate(LENGTHS)], dtype=torch.float64)
    logps = padded(given["logps"], requires_grad=True)
    loss = trainer._compute_loss(stand_in(logps, mask, **settings), None, inputs(given, mask))
    loss.backward()
    return dict(given, loss=loss.item(), d_logps=[logps.grad[i, :n].tolist() for i, n in enumerate(LENGTHS)], masked=masked)


def grouped(rng, loss_type, settings):
    settings = dict(settings)
    masked = settings.pop("masked", [])
    default = dict(beta=0.0, epsilon=0.2, epsilon_high=None, delta=None, importance_sampling_level="token", use_bias_correction_kl=True)
    full = {**default, **settings}
    args = SimpleNamespace(delta=full["delta"], use_bias_correction_kl=full["use_bias_correction_kl"], steps_per_generation=2)
    own = dict(loss_type=loss_type, beta=full["beta"], epsilon_low=full["epsilon"], epsilon_high=full["epsilon_high"] or full["epsilon"], args=args,
               importance_sampling_level=full["importance_sampling_level"])
    return dict(objective=dict(loss_type=loss_type, **settings), **solved(GRPOTrainer, numbers(rng), masked, own))


def leave_one_out(rng, settings):
    own = dict(epsilon_low=settings.get("epsilon", 0.2), epsilon_high=settings.get("epsilon_high") or settings.get("epsilon", 0.2))
    found = solved(RLOOTrainer, numbers(rng), [], own)
    # The trainer divides by the micro-batches of the step itself.
    halved = dict(loss=found["loss"] / 2, d_logps=[[x / 2 for x in row] for row in found["d_logps"]])
    return dict(objective=dict(loss_type="rloo", **settings), **{**found, **halved})
