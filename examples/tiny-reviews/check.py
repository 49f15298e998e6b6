"""Checks that the task is learnt fast: DPO on a LoRA adapter of the base model, in a plain loop of torch and PEFT.

    python check.py --steps 100 --learning-rate 5e-4 --beta 0.5

Prints held-out log-prob accuracy on the way, and the ground-truth reward and fluency of samples on held-out prompts
with the adapter off and on. Writes nothing.
"""

import argparse
import json
import random

import torch
from peft import LoraConfig, get_peft_model

import make
import pairs


def read_jsonl(name):
    """The records of a file in this folder."""
    return [json.loads(line) for line in (make.HERE / name).read_text(encoding="utf-8").splitlines()]


def pair_sums(model, tokenizer, batch):
    """Log-prob sums of (chosen, rejected) as two tensors, in one forward pass."""
    texts = [(p["prompt"], p["chosen"]) for p in batch] + [(p["prompt"], p["rejected"]) for p in batch]
    return pairs.completion_logps(model, tokenizer, texts)[0].split(len(batch))


def train(model, tokenizer, records, args, evaluate):
    """The DPO loop; `evaluate(step)` is called now and then."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.0)
    rng = random.Random(args.seed)
    queue = []
    for step in range(args.steps):
        if len(queue) < args.batch_size:
            queue = rng.sample(records, len(records))
        batch, queue = queue[: args.batch_size], queue[args.batch_size :]
        with torch.no_grad(), model.disable_adapter():
            reference = pair_sums(model, tokenizer, batch)
        policy = pair_sums(model, tokenizer, batch)
        margin = args.beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
        loss = -torch.nn.functional.logsigmoid(margin).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        warm = min(1.0, step / args.warmup_steps) if args.warmup_steps else 1.0
        rest = (args.steps - step) / max(1, args.steps - args.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(warm, rest)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % args.eval_steps == 0 or step + 1 == args.steps:
            evaluate(step + 1, loss.item())


def describe(name, model, tokenizer, prompts):
    """Figures of samples at two temperatures; returns those at the lower."""
    for temperature in (1.0, 0.7):
        print(name, end=": ")
        drawn = make.describe_samples(model, tokenizer, prompts, 5, temperature)
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warmup-steps", type=int, default=5)
    parser.add_argument("--eval-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--show", type=int, default=5, help="prompts whose samples to print")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    base, tokenizer = make.load_model()
    model = get_peft_model(base, LoraConfig(r=args.r, lora_alpha=args.alpha, target_modules="all-linear"))
    held_out = read_jsonl("eval.jsonl")
    prompts = [record["prompt"] for record in read_jsonl("prompts.jsonl")]
    with model.disable_adapter():
        before = pairs.pair_logps(model, tokenizer, held_out)[:2]
        print("adapter off: log-prob accuracy", make.mean(c > r for c, r in zip(*before)))
        off = describe("adapter off", model, tokenizer, prompts)

    def evaluate(step, loss):
        after = pairs.pair_logps(model, tokenizer, held_out)[:2]
        accuracy = make.mean(c > r for c, r in zip(*after))
        rewards = [(a - b) * args.beta for now, then in zip(after, before) for a, b in zip(now, then)]
        chosen, rejected = rewards[: len(held_out)], rewards[len(held_out) :]
        print(
            f"step {step} loss {loss:.4f} | held out: log-prob accuracy {accuracy:.3f}, "
            f"reward accuracy {make.mean(c > r for c, r in zip(chosen, rejected)):.3f}, "
            f"rewards {make.mean(chosen):+.2f} {make.mean(rejected):+.2f}",
            flush=True,
        )

    train(model, tokenizer, read_jsonl("train.jsonl"), args, evaluate)
    on = describe("adapter on", model, tokenizer, prompts)
    for prompt, without, with_adapter in list(zip(prompts, off, on))[: args.show]:
        print(f"\n{prompt}\n  off:{without}\n  on: {with_adapter}")


if __name__ == "__main__":
    main()
