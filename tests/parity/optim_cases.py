"""Small numeric tables: optimizer trajectories, learning-rate schedules, the conservative DPO loss and its gradient."""
from collections import defaultdict

import torch
from transformers import get_scheduler
from trl import DPOConfig, DPOTrainer

from files import write_json

GRADIENTS = [
    [0.5, -1.0, 2.0, 0.0, 1e-3],
    [0.25, -1.0, -2.0, 0.0, -1e-3],
    [-0.125, -1.0, 1.0, 0.0, 1e-4],
    [3.0, -1.0, 0.5, 1.0, -1e-5],
    [-0.75, -1.0, 0.25, 0.0, 1e-6],
    [0.1, -1.0, -4.0, -1.0, 1e-7],
]
START = [1.0, -0.5, 0.25, 2.0, -3.0]
# gradients enter as they are (no clipping); the learning rate of step i is LR · FACTORS[i]
LR, FACTORS = 0.01, [0.0, 0.5, 1.0, 0.8, 0.6, 0.4]
OPTIMIZERS = {
    "adamw": (torch.optim.AdamW, [dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0), dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1), dict(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.01)]),
    "rmsprop": (torch.optim.RMSprop, [dict(alpha=0.99, eps=1e-8, weight_decay=0.0), dict(alpha=0.99, eps=1e-8, weight_decay=0.1)]),
    "sgd": (torch.optim.SGD, [dict(weight_decay=0.0), dict(weight_decay=0.1)]),
}


def trajectory(optimizer_class, settings, dtype):
    weight = torch.nn.Parameter(torch.tensor(START, dtype=dtype))
    optimizer = optimizer_class([weight], lr=LR, foreach=False, **settings)
    steps = []
    for gradient, factor in zip(GRADIENTS, FACTORS):
        optimizer.param_groups[0]["lr"] = LR * factor
        weight.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        steps.append(weight.detach().tolist())
    return steps


def make_optim(out):
    optimizers = [
        dict(name=name, settings=settings, parameters_f32=trajectory(cls, settings, torch.float32), parameters_f64=trajectory(cls, settings, torch.float64))
        for name, (cls, variants) in OPTIMIZERS.items() for settings in variants
    ]
    write_json(out / "optim.json", dict(
        start=START, gradients=GRADIENTS, learning_rates=[LR * f for f in FACTORS], optimizers=optimizers,
        schedules=[schedule(name, warmup) for name in ("linear", "cosine", "constant", "constant_with_warmup") for warmup in (0, 5)],
    ))


def schedule(name, warmup, steps=20, peak=0.002):
    """The rate each step is taken with; two more values than steps, for those who run past the end."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    rates = []
    for _ in range(steps + 2):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return dict(name=name, warmup_steps=warmup, total_steps=steps, learning_rate=peak, learning_rates=rates)


# (policy chosen, policy rejected, reference chosen, reference rejected) log-probs
LOGPS = [
    (-10.0, -12.0, -10.0, -12.0),
    (-10.0, -12.0, -11.0, -11.5),
    (-35.25, -7.5, -33.0, -9.0),
    (-120.0, -300.0, -160.0, -260.0),
    (-300.0, -120.0, -260.0, -160.0),
    (-900.0, -100.0, -100.0, -900.0),
    (-0.001, -250.0, -3.0, -2.0),
]
# The label-smoothed ("conservative") loss is no loss type of TRL 1.16, whose "sigmoid" ignores label_smoothing; it is this sum of two that are:
# (1−ε)·S + ε·S' = 2(1−ε)·S − (1−2ε)·robust, with S = −log σ(Δ), S' = −log σ(−Δ), robust = ((1−ε)·S − ε·S') / (1−2ε).
def conservative(epsilon):
    return dict(loss_type=["sigmoid", "robust"], loss_weights=[2 * (1 - epsilon), -(1 - 2 * epsilon)], label_smoothing=epsilon)


LOSSES = {"conservative": [dict(beta=b, **conservative(e)) for b, e in ((0.1, 0.1), (1.0, 0.2), (1.0, 0.45))]}
CHOSEN_TOKENS, REJECTED_TOKENS = 4, 3


class FakeOutput:
    """What TRL reads of a model's output: all of a sequence's log-prob stands on its last token."""

    def __init__(self, logps, mask):
        nothing = torch.zeros(len(mask), mask.shape[1] - 1, dtype=logps.dtype)
        self.log_probs = torch.cat([nothing, logps[:, None]], dim=1)
        self.entropy = self.mean_logits = torch.zeros(mask.shape)
        self.is_top1 = torch.zeros(mask.shape, dtype=torch.bool)


class FakeAccelerator:
    device = torch.device("cpu")
    gather = gather_for_metrics = staticmethod(lambda x: x)
    unwrap_model = staticmethod(lambda model: model)


def trl_loss(settings, logps):
    """Runs DPOTrainer._compute_loss itself, on a model that answers with the given numbers."""
    args = DPOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", **settings)
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer.args, trainer.accelerator, trainer.aux_loss_enabled, trainer.use_weighting = args, FakeAccelerator, False, False
    trainer.ld_alpha, trainer.beta, trainer.label_smoothing, trainer.precompute_ref_logps = None, args.beta, args.label_smoothing, True
    trainer.loss_types, trainer.loss_weights = args.loss_type, args.loss_weights or [1.0] * len(args.loss_type)
    trainer.f_divergence_type, trainer.f_alpha_divergence_coef = args.f_divergence_type, args.f_alpha_divergence_coef
    trainer._metrics, trainer._total_train_tokens, trainer._tp_size = {"train": defaultdict(list)}, 0, 1
    policy = torch.tensor(logps[:2], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
    assert mask.sum(1).tolist() == [CHOSEN_TOKENS, REJECTED_TOKENS]

    class Model(torch.nn.Module):
        def forward(self, **_):
            return FakeOutput(policy, mask[:, 1:])

    trainer.model = model = Model()
    inputs = dict(
        input_ids=torch.zeros_like(mask), attention_mask=torch.ones_like(mask), completion_mask=mask,
        ref_chosen_logps=torch.tensor([logps[2]], dtype=torch.float64), ref_rejected_logps=torch.tensor([logps[3]], dtype=torch.float64),
    )
    loss = trainer._compute_loss(model, inputs, return_outputs=False)
    loss.backward()
    metrics = {key: value[0] for key, value in trainer._metrics["train"].items() if key.startswith("rewards/")}
    return dict(logps=logps, loss=loss.item(), d_chosen=policy.grad[0].item(), d_rejected=policy.grad[1].item(), **metrics)


def make_conservative(out):
    cases = []
    for name, variants in LOSSES.items():
        for settings in variants:
            shown = dict(beta=settings["beta"], label_smoothing=settings.get("label_smoothing", 0.0))
            rows = [trl_loss(settings, logps) for logps in LOGPS]
            for row in rows:
                check_conservative(row, **shown)
            cases.append(dict(loss=name, **shown, trl=dict(loss_type=settings["loss_type"], loss_weights=settings.get("loss_weights")), rows=rows))
    write_json(out / "dpo_loss.json", dict(chosen_tokens=CHOSEN_TOKENS, rejected_tokens=REJECTED_TOKENS, cases=cases))


def check_conservative(row, beta, label_smoothing):
    chosen, rejected, ref_chosen, ref_rejected = row["logps"]
    delta = torch.tensor(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)), dtype=torch.float64)
    S = lambda x: -torch.nn.functional.logsigmoid(x)
    direct = (1 - label_smoothing) * S(delta) + label_smoothing * S(-delta)
    assert abs(direct.item() - row["loss"]) < 1e-9 * max(1.0, row["loss"]), (direct, row)
