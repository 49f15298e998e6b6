"""Preference pairs: continuations sampled from the base model, ranked by the ground truth, as in the DPO paper."""

import json
import random

import torch

import grammar

SAMPLES_A_PROMPT = 8
MAX_NEW_TOKENS = 110
SAMPLING_BATCH = 512


def openings(count, without=frozenset(), first_seed=0):
    """`count` different openings, in order of seed, that are not in `without`."""
    found, seed = {}, first_seed
    while len(found) < count:
        text = grammar.opening(seed)
        seed += 1
        if text not in without:
            found[text] = None
    return list(found)


@torch.no_grad()
def sample(model, tokenizer, prompts, seed):
    """One continuation a prompt at temperature 1, without the end token; None where it did not end."""
    torch.manual_seed(seed)
    tokenizer.padding_side = "left"
    texts = []
    for start in range(0, len(prompts), SAMPLING_BATCH):
        batch = tokenizer(prompts[start : start + SAMPLING_BATCH], return_tensors="pt", padding=True,
                          return_token_type_ids=False)
        out = model.generate(
            **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            ended = tokenizer.eos_token_id in row
            texts.append(tokenizer.decode(row[: row.index(tokenizer.eos_token_id)]) if ended else None)
    return texts


@torch.no_grad()
def pair_logps(model, tokenizer, pairs, batch_size=64):
    """Sums of log-probs of (chosen, rejected) and their token counts, end token included, as four lists."""
    sums = {"chosen": [], "rejected": []}
    counts = {"chosen": [], "rejected": []}
    for side in sums:
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            logps, lengths = completion_logps(model, tokenizer, [(p["prompt"], p[side]) for p in batch])
            sums[side] += logps.tolist()
            counts[side] += lengths.tolist()
    return sums["chosen"], sums["rejected"], counts["chosen"], counts["rejected"]


def completion_logps(model, tokenizer, texts):
    """Log-prob sums of the completions of (prompt, completion) texts, and how many tokens each has."""
    prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
    rows = tokenizer([prompt + completion for prompt, completion in texts])["input_ids"]
    rows = [row + [tokenizer.eos_token_id] for row in rows]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    scored = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (prompt, row) in enumerate(zip(prompts, rows)):
        ids[i, : len(row)] = torch.tensor(row)
        scored[i, len(prompt) : len(row)] = True
    logits = model(input_ids=ids[:, :-1]).logits.float()
    logps = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (logps * scored[:, 1:]).sum(-1), scored.sum(-1)


def make_pairs(model, tokenizer, prompts, seed):
    """One pair a prompt: of its samples, a favourable and an unfavourable one of the most similar length.

    Only samples that end and read as reviews take part; prompts whose samples all take one side give no pair.
    """
    rng = random.Random(seed)
    drawn = sample(model, tokenizer, [p for p in prompts for _ in range(SAMPLES_A_PROMPT)], seed)
    pairs = []
    for index, prompt in enumerate(prompts):
        own = drawn[index * SAMPLES_A_PROMPT : (index + 1) * SAMPLES_A_PROMPT]
        own = [text for text in own if text and text.startswith(" ") and grammar.is_grammatical(text)]
        favourable = [text for text in own if grammar.reward(text) > 0.5]
        unfavourable = [text for text in own if grammar.reward(text) < 0.5]
        choices = [(c, r) for c in favourable for r in unfavourable]
        if choices:
            rng.shuffle(choices)
            chosen, rejected = min(choices, key=lambda pair: abs(len(pair[0]) - len(pair[1])))
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return pairs


def write_jsonl(path, records):
    """One JSON object a line."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
