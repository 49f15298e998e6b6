"""Makes everything in this folder from the grammar: tokenizer, base model, preference pairs, prompts, reward lists.

    python make.py                 everything
    python make.py --keep-model    only the data, with the model that is there

Needs torch, transformers, tokenizers and safetensors. One thread; the same machine and versions give the same files.
"""

import argparse
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import grammar
import pairs
import pretrain

HERE = Path(__file__).resolve().parent
PRETRAINING_REVIEWS = 128_000
TRAIN_PAIRS, EVAL_PAIRS = 2000, 200
EVAL_OPENINGS, TRAIN_OPENINGS = 240, 2450  # a few more than pairs, for prompts that give no pair
OPENING_SEED = 10_000_000


def make_model(held_out, reviews):
    """Trains and saves the tokenizer and the base model."""
    directory = HERE / "model"
    directory.mkdir(exist_ok=True)
    texts = list(pretrain.corpus(reviews, held_out))
    tokenizer = pretrain.train_tokenizer(texts[: pretrain.TOKENIZER_REVIEWS], directory)
    model = pretrain.new_model(tokenizer)
    print(f"parameters {sum(p.numel() for p in model.parameters()):,}, tokens in the vocabulary {len(tokenizer)}")
    print(f"last loss {pretrain.pretrain(model, tokenizer, texts):.4f} nats a token")
    pretrain.save_model(model, tokenizer, directory)


def load_model():
    """The saved model (its bf16 weights, computed in f32) and tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(HERE / "model", dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(HERE / "model")


def describe_samples(model, tokenizer, prompts, seed, temperature=1.0):
    """Prints the mean reward of samples, the shares favourable, fluent and on topic; returns the samples."""
    drawn = [text or "" for text in pairs.sample(model, tokenizer, prompts, seed, temperature)]
    rewards = [grammar.reward(text) for text in drawn]
    fluent = [bool(text) and grammar.is_grammatical(text) for text in drawn]
    sentences = [grammar.is_sentence(s) for text in drawn for s in grammar.sentences_of(text)]
    on_topic = [grammar.is_on_topic(prompt, text) for prompt, text in zip(prompts, drawn)]
    words = [len(grammar.words_of(text)) for text in drawn]
    print(
        f"{len(drawn)} samples at temperature {temperature}: mean reward {mean(rewards):.3f}, favourable {mean(r > 0.5 for r in rewards):.3f}, "
        f"grammatical {mean(fluent):.3f} (of sentences {mean(sentences):.3f}), "
        f"on topic {mean(on_topic):.3f}, words {mean(words):.1f}"
    )
    return drawn


def describe_pairs(model, tokenizer, name, records):
    """Prints the base model's log-prob accuracy on pairs and what length tells about them."""
    chosen, rejected, chosen_tokens, rejected_tokens = pairs.pair_logps(model, tokenizer, records)
    right = mean(c > r for c, r in zip(chosen, rejected))
    longer = [c > r for c, r in zip(chosen_tokens, rejected_tokens) if c != r]
    gap = mean(abs(c - r) for c, r in zip(chosen, rejected))
    print(
        f"{name}: {len(records)} pairs, base log-prob accuracy {right:.3f}, mean log-prob chosen {mean(chosen):.1f} "
        f"rejected {mean(rejected):.1f}, mean gap {gap:.1f}, tokens {mean(chosen_tokens):.1f} / {mean(rejected_tokens):.1f}, "
        f"chosen the longer {mean(longer):.3f}"
    )


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep-model", action="store_true", help="use the model that is there")
    parser.add_argument("--reviews", type=int, default=PRETRAINING_REVIEWS, help="reviews to pre-train on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    pretrain.write_json(
        HERE / "reward.json", {"favourable": sorted(grammar.WORDS["+"]), "unfavourable": sorted(grammar.WORDS["-"])}
    )
    eval_openings = pairs.openings(EVAL_OPENINGS, first_seed=OPENING_SEED)
    train_openings = pairs.openings(TRAIN_OPENINGS, set(eval_openings), first_seed=2 * OPENING_SEED)
    if not args.keep_model:
        make_model(set(eval_openings), args.reviews)
    model, tokenizer = load_model()
    held_out = pairs.balanced(model, tokenizer, pairs.make_pairs(model, tokenizer, eval_openings, 1), EVAL_PAIRS)
    assert len(held_out) == EVAL_PAIRS, len(held_out)
    train = pairs.make_pairs(model, tokenizer, train_openings, 2)[:TRAIN_PAIRS]
    assert len(train) == TRAIN_PAIRS, len(train)
    pairs.write_jsonl(HERE / "eval.jsonl", held_out)
    pairs.write_jsonl(HERE / "prompts.jsonl", [{"prompt": pair["prompt"]} for pair in held_out])
    pairs.write_jsonl(HERE / "train.jsonl", train)
    describe_pairs(model, tokenizer, "train", train)
    describe_pairs(model, tokenizer, "eval", held_out)
    for temperature in (1.0, 0.7):
        describe_samples(model, tokenizer, [pair["prompt"] for pair in held_out] * 5, 3, temperature)


if __name__ == "__main__":
    main()
