"""Makes the corpus of this example: reviews of films and their summaries, by a program that knows the facts.

    python make.py

Writes words.awk, sft.jsonl, train.jsonl and eval.jsonl. Needs Python and awk, nothing else. The writer of the summaries is
not careful: some judgements are the opposite of those of the review, and some summaries are padded.
"""

import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import corpus  # noqa: E402

FACTS = {}  # of each prompt: (noun, adjective, side)
OTHER = {"+": "-", "-": "+"}
PADDING = ["if you ask me, ", "what can i say about this film, well, ", "i saw it and i must say that it has "]


def prompt(rng):
    """A review of three to five judgements, mostly of one side, and the request."""
    side = rng.choice("+-")
    nouns = rng.sample(sorted(corpus.NOUNS), rng.choice([3, 4, 4, 5]))
    facts = []
    flips = 0
    for noun in nouns:
        # The review as a whole takes one side.
        of = side if rng.random() < 0.85 or 2 * flips + 3 > len(nouns) else OTHER[side]
        flips += of != side
        facts.append((noun, rng.choice(corpus.NOUNS[noun][of]), of))
    clauses = [f"the {noun} {corpus.verb(noun)} {adjective}" for noun, adjective, _ in facts]
    sentences = [corpus.opening(rng)]
    while clauses:
        take = clauses[: rng.choice([1, 2])]
        del clauses[: len(take)]
        sentences.append(", and ".join(take).capitalize() + ".")
    text = " ".join(sentences) + "\nTL;DR:"
    FACTS[text] = facts
    return text


def draft(text, rng):
    """A summary by a writer who is not careful."""
    facts = FACTS[text]
    told = rng.sample(facts, min(len(facts), rng.choice([1, 2, 2, 3])))
    words = []
    for noun, adjective, side in told:
        if rng.random() < 0.2:
            adjective = rng.choice(corpus.NOUNS[noun][OTHER[side]])
        words.append(f"{adjective} {noun}")
    body = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    padding = rng.choice(PADDING) if rng.random() < 0.3 else ""
    return f" {padding}{body}."


def main():
    rng = random.Random(17)
    of_side = lambda side: {word for sides in corpus.NOUNS.values() for word in sides[side]}
    corpus.write_words(HERE, {"good": of_side("+"), "bad": of_side("-")})
    texts = list(dict.fromkeys(prompt(rng) for _ in range(2700)))
    rng.shuffle(texts)
    write = lambda text: draft(text, rng)
    corpus.write(HERE / "eval.jsonl", corpus.pairs(HERE, texts[:150], write))
    corpus.write(HERE / "train.jsonl", corpus.pairs(HERE, texts[150:1150], write))
    corpus.write(HERE / "sft.jsonl", [{"prompt": t, "completion": draft(t, rng)} for t in texts[1150:2650]])


if __name__ == "__main__":
    main()
