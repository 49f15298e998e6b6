"""Preference pairs: continuations sampled from the base model, ranked by the ground truth, as in the DPO paper."""

import json
import random

import torch

import grammar

SAMPLES_A_PROMPT = 12
MAX_NEW_TOKENS = 110
SAMPLING_BATCH = 512
LEAST_GAP = 0.5  # of reward within a pair


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
def sample(model, tokenizer, prompts, seed, temperature=1.0):
    """One continuation a prompt, without the end token; None where it did not end."""
    torch.manual_seed(seed)
    tokenizer.padding_side = "left"
    texts = []
    for start in range(0, len(prompts), SAMPLING_BATCH):
        batch = tokenizer(prompts[start : start + SAMPLING_BATCH], return_tensors="pt", padding=True,
                          return_token_type_ids=False)
        out = model.generate(
            **batch, do_sample=True, temperature=temperature, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            ended = tokenizer.eos_token_id in row
            texts.append(tokenizer.decode(row[: row.index(tokenizer.eos_token_id)]) if ended else None)
    return texts


def pair_logps(model, tokenizer, pairs):
    """Sums of log-probs of (chosen, rejected) and their token counts, end token included, as four lists."""
    found = likenesses(model, tokenizer, [(p["prompt"], p[side]) for side in ("chosen", "rejected") for p in pairs])
    logps, counts = [logp for logp, _ in found], [count for _, count in found]
    return logps[: len(pairs)], logps[len(pairs) :], counts[: len(pairs)], counts[len(pairs) :]


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
    """One pair a prompt: of its samples, the favourable and the unfavourable one that are most alike otherwise.

    Alike is a similar log-prob under the model (so that it has no opinion to begin with) and a similar number of
    tokens (so that length tells nothing). Only samples that end, read as reviews and keep to the topic take part; a
    prompt whose samples all take one side gives no pair.
    """
    rng = random.Random(seed)
    drawn = sample(model, tokenizer, [p for p in prompts for _ in range(SAMPLES_A_PROMPT)], seed)
    usable = {}  # (prompt, text) -> reward, in order, each once
    for index, text in enumerate(drawn):
        prompt = prompts[index // SAMPLES_A_PROMPT]
        if text and text.startswith(" ") and grammar.is_grammatical(text) and grammar.is_on_topic(prompt, text):
            usable[prompt, text] = grammar.reward(text)
    sides = {prompt: ([], []) for prompt in prompts}
    for (prompt, text), likeness in zip(usable, likenesses(model, tokenizer, list(usable))):
        if usable[prompt, text] != 0.5:
            sides[prompt][usable[prompt, text] < 0.5].append((text, likeness))
    pairs = []
    for prompt, (favourable, unfavourable) in sides.items():
        choices = [
            (c, r)
            for c in favourable
            for r in unfavourable
            if usable[prompt, c[0]] - usable[prompt, r[0]] >= LEAST_GAP
        ]
        if choices:
            rng.shuffle(choices)
            chosen, rejected = min(choices, key=lambda pair: difference(pair[0][1], pair[1][1]))
            pairs.append({"prompt": prompt, "chosen": chosen[0], "rejected": rejected[0]})
    return pairs


def balanced(model, tokenizer, pairs, count):
    """The first `count` pairs, of which the model finds the chosen side likelier in half and less likely in half."""
    chosen, rejected, _, _ = pair_logps(model, tokenizer, pairs)
    room = {True: count // 2, False: count - count // 2}
    kept = []
    for pair, right in zip(pairs, (c > r for c, r in zip(chosen, rejected))):
        if room[right]:
            room[right] -= 1
            kept.append(pair)
    return kept


@torch.no_grad()
def likenesses(model, tokenizer, texts, batch_size=128):
    """(log-prob sum, tokens) of each completion of (prompt, completion) texts."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i][0] + texts[i][1]))
    found = [None] * len(texts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        logps, lengths = completion_logps(model, tokenizer, [texts[i] for i in batch])
        for i, logp, length in zip(batch, logps.tolist(), lengths.tolist()):
            found[i] = (logp, length)
    return found


def difference(one, other):
    """How unlike two (log-prob sum, tokens) are, in nats; a token counts as a tenth of one."""
    return abs(one[0] - other[0]) + 0.1 * abs(one[1] - other[1])


def write_jsonl(path, records):
    """One JSON object a line."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
