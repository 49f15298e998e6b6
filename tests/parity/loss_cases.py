"""Losses and their gradients by TRL's own code, on random log-probs in f64: `losses.json`, and with modifiers: `modifiers.json`."""
import contextlib
import random
import types
from collections import defaultdict

import torch
from trl import DPOConfig, DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.tpo import TPOTrainer

from files import write_json

CASES = 50
# name → settings that the cases take in turn; each is what our `objective` section says, in TRL's keys
DPO = {
    "sigmoid": [dict(), dict(beta=0.5, f_divergence_type="forward_kl"), dict(beta=0.7, f_divergence_type="js_divergence"), dict(beta=0.5, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.3)],
    "hinge": [dict(), dict(beta=0.5), dict(f_divergence_type="js_divergence")],
    "ipo": [dict(), dict(beta=0.5), dict(f_divergence_type="js_divergence")],
    "exo_pair": [dict(label_smoothing=1e-3), dict(beta=0.5, label_smoothing=0.2), dict(label_smoothing=0.1, f_divergence_type="js_divergence")],
    "nca_pair": [dict(), dict(beta=0.5)],
    "robust": [dict(), dict(beta=0.5, label_smoothing=0.1), dict(label_smoothing=0.4), dict(label_smoothing=0.1, f_divergence_type="js_divergence")],
    "bco_pair": [dict(), dict(beta=0.5)],
    "sppo_hard": [dict(), dict(beta=0.5)],
    "aot": [dict(), dict(beta=0.5, label_smoothing=0.1)],
    "aot_unpaired": [dict(), dict(beta=0.5, label_smoothing=0.1)],
    "apo_zero": [dict(), dict(beta=0.5)],
    "apo_down": [dict(), dict(beta=0.5)],
    "discopop": [dict(), dict(beta=0.02), dict(beta=0.05, discopop_tau=0.5), dict(f_divergence_type="js_divergence")],
    "sft": [dict()],
    "sigmoid_norm": [dict(beta=2.0), dict(beta=5.0), dict(beta=2.0, f_divergence_type="js_divergence")],
}
CPO = {
    "cpo": [dict(), dict(beta=0.5, cpo_alpha=0.0, label_smoothing=0.1), dict(cpo_alpha=0.3, alpha=0.02)],
    "simpo": [dict(), dict(beta=2.0, simpo_gamma=1.0, cpo_alpha=0.0), dict(cpo_alpha=0.5, label_smoothing=0.2)],
    "alphapo": [dict(alpha=0.25), dict(beta=2.5, alpha=0.5, simpo_gamma=0.1), dict(beta=2.0, alpha=-0.3, label_smoothing=0.1)],
    "orpo": [dict(), dict(beta=0.7)],
}
KTO = {
    "kto": [dict(), dict(beta=0.5, desirable_weight=1.3, undesirable_weight=0.6)],
    "apo_zero_unpaired": [dict(), dict(beta=0.5, desirable_weight=1.3, undesirable_weight=0.6)],
}

# name → what TRL calls it
TPO_TYPES = {"tpo": "sigmoid", "tpo_hinge": "hinge", "tpo_ipo": "ipo", "tpo_l": "tpo-l"}
TPO = {
    "tpo": [dict(), dict(beta=0.5, tpo_alpha=0.3, label_smoothing=0.1), dict(beta=0.2, tpo_alpha=0.0)],
    "tpo_hinge": [dict(), dict(beta=0.5, tpo_alpha=0.3), dict(beta=0.2, tpo_alpha=0.0)],
    "tpo_ipo": [dict(), dict(beta=0.5, tpo_alpha=0.3), dict(beta=0.2, tpo_alpha=0.0)],
    "tpo_l": [dict(), dict(beta=2.0, tpo_l_gamma=1.0, label_smoothing=0.1), dict(beta=5.0, tpo_l_gamma=2.0, tpo_alpha=0.0)],
}


class Output:
    """What TRL reads of a model's output. The log-prob of a sequence stands on its scored tokens in equal parts."""

    def __init__(self, logps, mask):
        self.log_probs = logps[:, None] * mask / mask.sum(1, keepdim=True)
        self.entropy = self.mean_logits = torch.zeros(mask.shape)
        self.is_top1 = torch.zeros(mask.shape, dtype=torch.bool)
        self.label_mask = mask.bool()


ACCELERATOR = types.SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)


def tensor(values, **more):
    return torch.tensor(values, dtype=torch.float64, **more)


def masks(tokens):
    """Completion masks behind a prompt of one token."""
    width = 1 + max(tokens)
    return torch.tensor([[0] + [1] * n + [0] * (width - 1 - n) for n in tokens])


class Model(torch.nn.Module):
    def __init__(self, logps):
        super().__init__()
        self.logps = logps

    def forward(self, labels=None, **_):
        return Output(self.logps[: len(labels)] if labels is not None else self.logps, (labels[:, 1:] != -100).long())


def bare(cls, **fields):
    trainer = cls.__new__(cls)
    fields = dict(accelerator=ACCELERATOR, aux_loss_enabled=False, precompute_ref_logps=True, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1, **fields)
    for key, value in fields.items():
        setattr(trainer, key, value)
    return trainer


def metrics_of(trainer):
    return {key: value[0] for key, value in trainer._metrics["train"].items() if key.split("/")[0] in ("rewards", "logps", "kl")}


def completions(rng, batch):
    """(chosen…, rejected…): log-probs under policy and reference, tokens."""
    tokens = [rng.randint(1, 12) for _ in range(2 * batch)]
    reference = [round(-n * rng.uniform(0.05, 3), 4) for n in tokens]
    spread = rng.choice([0.0, 1.0, 5.0, 30.0])
    policy = [min(-1e-3, round(logp + rng.gauss(0, spread), 4)) for logp in reference]
    return policy, reference, tokens


def dpo_case(name, settings, rng):
    batch = rng.choice([1, 2, 4, 5])
    policy, reference, tokens = completions(rng, batch)
    args = DPOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", loss_type=[name], **settings)
    logps, mask = tensor(policy, requires_grad=True), masks(tokens)
    model = Model(logps)
    trainer = bare(
        DPOTrainer, args=args, model=model, use_weighting=False, ld_alpha=None, beta=args.beta, label_smoothing=args.label_smoothing, loss_types=args.loss_type,
        loss_weights=[1.0], f_divergence_type=args.f_divergence_type, f_alpha_divergence_coef=args.f_alpha_divergence_coef,
    )
    inputs = dict(
        input_ids=torch.ones_like(mask), attention_mask=torch.ones_like(mask), completion_mask=mask, ref_chosen_logps=tensor(reference[:batch]), ref_rejected_logps=tensor(reference[batch:]),
    )
    with double_precision():
        loss = trainer._compute_loss(model, inputs, return_outputs=False)
    loss.backward()
    return dict(kind="pairs", policy=policy, reference=reference, tokens=tokens, loss=loss.item(), gradient=logps.grad.tolist(), metrics=metrics_of(trainer))


class double_precision:
    """TRL computes its α-divergence in f32 and knows no f64; here `.float()` gives f64, and the cut has its entry."""

    def __enter__(self):
        self.float, self.clamp = torch.Tensor.float, torch.clamp
        torch.Tensor.float = torch.Tensor.double
        import trl.trainer.dpo_trainer as module
        self.torch, module.torch = module.torch, F64Torch(torch)

    def __exit__(self, *_):
        import trl.trainer.dpo_trainer as module
        torch.Tensor.float, module.torch = self.float, self.torch


class F64Torch:
    """torch, whose `float32` is `float64`; so is ε of exo_pair."""

    def __init__(self, module):
        self.module = module

    def tensor(self, value, **more):
        return self.module.tensor(value, dtype=self.module.float64, **more)

    def relu(self, x):
        """TRL weights a loss in place, and torch's backward of relu then fails."""
        return self.module.relu(x).clone()

    def sigmoid(self, x):
        return self.module.sigmoid(x).clone()

    def __getattr__(self, name):
        return self.module.float64 if name == "float32" else getattr(self.module, name)


def free_case(name, settings, rng):
    """CPO and ORPO: their concatenated forward is replaced by its result, as they compute it from log-probs."""
    batch = rng.choice([1, 2, 4, 5])
    policy, reference, tokens = completions(rng, batch)
    prompts = [rng.randint(1, 8) for _ in range(batch)]
    prompt_logps = [round(-n * rng.uniform(0.1, 3), 4) for n in prompts]
    logps, prompt = tensor(policy, requires_grad=True), tensor(prompt_logps, requires_grad=True)
    counts = tensor(tokens)
    mean = logps / counts
    if name == "orpo":
        trainer = bare(ORPOTrainer, beta=settings.get("beta", 0.1))
        nll = -(logps[:batch].sum() + prompt.sum()) / (counts[:batch].sum() + sum(prompts))
        used = mean
    else:
        alpha = settings.get("cpo_alpha", 0.0 if name == "alphapo" else 1.0)
        trainer = bare(
            CPOTrainer, beta=settings.get("beta", 0.1), label_smoothing=settings.get("label_smoothing", 0.0), alpha=settings.get("alpha", 0.0), cpo_alpha=alpha,
            simpo_gamma=settings.get("simpo_gamma", 0.5), loss_type="sigmoid" if name == "cpo" else "simpo",
        )
        nll = torch.tensor(0.0) if alpha == 0 else -logps[:batch].sum() / counts[:batch].sum()
        used = logps if name == "cpo" else mean
    nothing = torch.zeros(1)
    trainer.concatenated_forward = lambda *_: (used[:batch], used[batch:], nothing, nothing, nll)
    float_, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
    try:
        loss, metrics = trainer.get_batch_loss_metrics(None, {})
    finally:
        torch.Tensor.float = float_
    loss.backward()
    metrics = {key: value for key, value in metrics.items() if not key.startswith("logits/") and not (key == "nll_loss" and nll.item() == 0)}
    return dict(
        kind="pairs", policy=policy, reference=reference, tokens=tokens, loss=loss.item(), gradient=logps.grad.tolist(), metrics=metrics,
        **(dict(prompt=prompt_logps, prompt_tokens=prompts, prompt_gradient=prompt.grad.tolist()) if name == "orpo" else {}),
    )


class Logits(torch.nn.Module):
    """A model of two tokens: with these log-probs of token 0, equal for each scored token of a sequence."""

    def __init__(self, logps, mask):
        super().__init__()
        self.logps, self.mask = logps, mask

    def forward(self, **_):
        scored = self.mask[:, 1:].double()
        each = self.logps[:, None] / scored.sum(1, keepdim=True) * scored + -1.0 * (1 - scored)
        logits = torch.stack([each, torch.log(-torch.expm1(each))], -1)
        return types.SimpleNamespace(logits=torch.cat([logits, logits[:, -1:]], 1))


def tpo_case(name, settings, rng):
    """TPO's own loss, from logits that give the wanted log-probs: chosen, rejected and gold completions in turn."""
    batch = rng.choice([1, 2, 4, 5])
    policy, reference, tokens = completions(rng, batch)
    gold_tokens = [rng.randint(1, 12) for _ in range(batch)]
    gold = [round(-n * rng.uniform(0.05, 3), 4) for n in gold_tokens]
    alpha = settings.get("tpo_alpha", 1.0)
    everything = (policy + gold, tokens + gold_tokens) if alpha else (policy, tokens)
    logps, mask = tensor(everything[0], requires_grad=True), masks(everything[1])
    model = Logits(logps, mask)
    trainer = bare(
        TPOTrainer, model=model, loss_type=TPO_TYPES[name], beta=settings.get("beta", 0.01), label_smoothing=settings.get("label_smoothing", 0.0), tpo_alpha=alpha,
        tpo_l_gamma=settings.get("tpo_l_gamma", 0.5),
    )
    inputs = dict(input_ids=torch.zeros_like(mask), attention_mask=torch.ones_like(mask), completion_mask=mask)
    loss = trainer._compute_loss(model, inputs, return_outputs=False)
    loss.backward()
    slopes = logps.grad.tolist()
    metrics = metrics_of(trainer)
    # A share of the pairs, which TPOTrainer computes in f32.
    metrics["rewards/accuracies"] = round(metrics["rewards/accuracies"] * batch) / batch
    if any(policy[at] == policy[batch + at] for at in range(batch)):
        # Two equal rewards, but for the rounding of TRL's sum over tokens.
        del metrics["rewards/accuracies"]
    return dict(
        kind="triples" if alpha else "pairs", policy=policy, reference=reference, tokens=tokens, loss=loss.item(), gradient=slopes[: 2 * batch], metrics=metrics,
        **(dict(gold=gold, gold_tokens=gold_tokens, gold_gradient=slopes[2 * batch :]) if alpha else {}),
    )


def kto_case(name, settings, rng):
    batch = rng.choice([2, 3, 4, 6])
    policy, reference, tokens = completions(rng, batch)
    labels = [rng.random() < 0.6 for _ in range(batch)]
    logps = tensor(policy[:batch], requires_grad=True)
    mask = masks(tokens[:batch])
    model = Model(logps)
    trainer = bare(
        KTOTrainer, model=model, loss_type=name, calculate_KL=name == "kto", beta=settings.get("beta", 0.1), desirable_weight=settings.get("desirable_weight", 1.0),
        undesirable_weight=settings.get("undesirable_weight", 1.0),
    )
    # The second half of the completions are the mismatched ones.
    trainer._compute_kl_logps = lambda *_: tensor(policy[batch:])
    inputs = dict(
        input_ids=torch.ones_like(mask), attention_mask=torch.ones_like(mask), completion_mask=mask, label=torch.tensor(labels), ref_logps=tensor(reference[:batch]), ref_KL_logps=tensor(reference[batch:]),
    )
    loss = trainer._compute_loss(model, inputs, return_outputs=False)
    loss.backward()
    metrics = metrics_of(trainer)
    if name != "kto":
        metrics.pop("kl")
    return dict(kind="judged", labels=labels, policy=policy, reference=reference, tokens=tokens, loss=loss.item(), gradient=logps.grad.tolist(), metrics=metrics)


def plackett_luce_case(name, settings, rng):
    """No loss of TRL: that of appendix A.3 of the DPO paper, written out in f64."""
    places = rng.randint(2, 6)
    policy, reference, tokens = completions(rng, places)
    logps = tensor(policy[:places], requires_grad=True)
    scores = settings.get("beta", 0.1) * (logps - tensor(reference[:places]))
    loss = -sum(scores[k] - torch.logsumexp(scores[k:], 0) for k in range(places - 1))
    loss.backward()
    return dict(kind="ranked", policy=policy[:places], reference=reference[:places], tokens=tokens[:places], loss=loss.item(), gradient=logps.grad.tolist(), metrics={})


def unlikelihood_case(name, settings, rng):
    """No loss of TRL: that of section 6 of the DPO paper, written out in f64."""
    batch = rng.choice([1, 2, 4, 5])
    policy, reference, tokens = completions(rng, batch)
    logps = tensor(policy, requires_grad=True)
    loss = (-logps[:batch] + settings.get("unlikelihood_alpha", 1.0) * logps[batch:]).mean()
    loss.backward()
    metrics = {"logps/chosen": logps[:batch].mean().item(), "logps/rejected": logps[batch:].mean().item()}
    return dict(kind="pairs", policy=policy, reference=reference, tokens=tokens, loss=loss.item(), gradient=logps.grad.tolist(), metrics=metrics)


def make_losses(out):
    ours = [({"plackett_luce": [dict(), dict(beta=0.5)]}, plackett_luce_case), ({"unlikelihood": [dict(), dict(unlikelihood_alpha=0.3)]}, unlikelihood_case)]
    families = [(DPO, dpo_case), (CPO, free_case), (TPO, tpo_case), (KTO, kto_case), *ours]
    losses = {}
    for names, case in families:
        for name, variants in names.items():
            rng = random.Random(name)
            losses[name] = [dict(settings=variants[i % len(variants)], **rounded(case(name, variants[i % len(variants)], rng))) for i in range(CASES)]
    write_json(out / "losses.json", losses)


MODIFIERS = [dict(ld_alpha=0.3), dict(ld_alpha=0.0), dict(use_weighting=True), dict(ld_alpha=0.6, use_weighting=True), dict(ld_alpha=1.0)]
# exo_pair has no default; the others have theirs.
REQUIRED = {"exo_pair": dict(label_smoothing=1e-3), "sigmoid_norm": dict(beta=2.0)}


class TokenModel(torch.nn.Module):
    """A model that gives these log-probs `[completions, tokens]`, and these log Σ p²."""

    def __init__(self, logps, squares):
        super().__init__()
        self.logps, self.squares = logps, squares

    def forward(self, labels=None, **_):
        output = Output(self.logps.sum(1), (labels[:, 1:] != -100).long())
        output.log_probs, output.log_sum_sq_probs = self.logps, self.squares
        return output


def modified_case(name, settings, rng):
    """Losses of pairs with `ld_alpha` and `use_weighting`: log-probs by token; sums of head and tail are written."""
    import trl.trainer.dpo_trainer as module

    batch = rng.choice([1, 2, 4])
    tokens = [rng.randint(1, 9) for _ in range(2 * batch)]
    mask = masks(tokens)
    draw = lambda low, high: tensor([[round(rng.uniform(low, high), 4) if i < n else 0.0 for i in range(max(tokens))] for n in tokens])
    reference, squares = draw(-3, -0.05), draw(-2, -0.1)
    logps = (reference + draw(-0.05, 0.05) * rng.choice([1, 10])).clamp(max=-1e-3).detach() * mask[:, 1:]
    logps.requires_grad_()
    args = DPOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", loss_type=[name], **{"beta": 0.1, **REQUIRED.get(name, {})})
    model = TokenModel(logps, squares)
    trainer = bare(
        DPOTrainer, args=args, model=model, ref_model=TokenModel(reference, squares), use_weighting=settings.get("use_weighting", False), ld_alpha=settings.get("ld_alpha"),
        beta=args.beta, label_smoothing=args.label_smoothing, loss_types=args.loss_type, loss_weights=[1.0], f_divergence_type=args.f_divergence_type,
        f_alpha_divergence_coef=args.f_alpha_divergence_coef,
    )
    trainer.precompute_ref_logps = False
    module.disable_gradient_checkpointing = lambda *_: contextlib.nullcontext()
    inputs = dict(input_ids=torch.ones_like(mask), attention_mask=torch.ones_like(mask), completion_mask=mask)
    with double_precision():
        loss = trainer._compute_loss(model, inputs, return_outputs=False)
    loss.backward()
    shared = [min(tokens[i % batch], tokens[i % batch + batch]) for i in range(2 * batch)]
    short = lambda value: float(f"{value:.12g}")
    sums = lambda values, part: [short(row[part(i)].sum().item()) for i, row in enumerate(values)]
    head, tail = lambda i: slice(0, shared[i]), lambda i: slice(shared[i], tokens[i])
    slope = lambda i, at: short(logps.grad[i, at].item()) if at < tokens[i] else 0.0
    return dict(
        settings={**REQUIRED.get(name, {}), **settings}, head=sums(logps, head), tail=sums(logps, tail), ref_head=sums(reference, head), ref_tail=sums(reference, tail),
        aligned=sums((logps - squares) * mask[:, 1:], lambda i: slice(0, tokens[i])), tokens=tokens, loss=short(loss.item()),
        d_head=[slope(i, 0) for i in range(2 * batch)], d_tail=[slope(i, shared[i]) for i in range(2 * batch)],
        metrics={key: short(value) for key, value in metrics_of(trainer).items()},
    )


def make_modifiers(out):
    modified = {}
    for name in DPO:
        rng = random.Random(f"modified {name}")
        # TRL refuses to weight losses that sort their pairs, and its `sft` cannot be weighted in place.
        fits = [m for m in MODIFIERS if not ("use_weighting" in m and name in ("aot", "aot_unpaired", "sft"))]
        if name != "sft":
            modified[name] = [modified_case(name, fits[i % len(fits)], rng) for i in range(CASES)]
    write_json(out / "modifiers.json", modified)


def rounded(case):
    """Ten digits; the tests compare nine."""
    short = lambda value: float(f"{value:.10g}")
    assert torch.isfinite(tensor([case["loss"], *case["gradient"]])).all(), case
    if case["policy"] == case["reference"]:
        # Every reward is 0, but for the rounding of TRL's sum over tokens.
        case["metrics"].pop("rewards/accuracies", None)
    case["loss"], case["metrics"] = short(case["loss"]), {key: short(value) for key, value in case["metrics"].items()}
    for key in ("gradient", "prompt_gradient", "gold_gradient"):
        if key in case:
            case[key] = [short(value) for value in case[key]]
    return case
