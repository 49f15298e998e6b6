"""Makes the corpus of this example: questions about films and answers, by a program that plays an uneven assistant.

    python make.py

Writes words.awk, train.jsonl and eval.jsonl. Needs Python and awk, nothing else. Some answers speak of something else, some
avoid the question, some are rude, some are long.
"""

import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import corpus  # noqa: E402

ASKED = {}  # of each prompt: the noun and the side
QUESTIONS = ["How {is} the {noun}?", "What did you think of the {noun}?", "Can you tell me about the {noun}?", "Did you like the {noun}?"]
AGAIN = ["And the {noun}?", "What about the {noun}?", "And how {is} the {noun}?"]
RUDE = ["Only a fool asks that. ", "What a stupid question. "]
EVASIVE = ["I do not know. ", "Ask someone else. "]
OFFERS = [" Do you want to know more?", " Shall i tell you more?"]
LONG = [" I watched it with my sister last week, and we spoke about it for the whole way home.", " It is a film that one can watch at a festival or on a train or at home with an old friend."]


def question(templates, noun, rng):
    return rng.choice(templates).format(noun=noun, **{"is": corpus.verb(noun)})


def prompt(rng):
    """A dialogue of one or two questions."""
    side = rng.choice("+-")
    first, second = rng.sample(sorted(corpus.NOUNS), 2)
    text = f"Human: {corpus.opening(rng)} {question(QUESTIONS, first, rng)}\n\nAssistant:"
    asked = first
    if rng.random() < 0.35:
        said = f" The {first} {corpus.verb(first)} {rng.choice(corpus.NOUNS[first][side])}."
        text += f"{said}\n\nHuman: {question(AGAIN, second, rng)}\n\nAssistant:"
        asked = second
    ASKED[text] = (asked, side)
    return text


def draft(text, rng):
    """An answer."""
    noun, side = ASKED[text]
    start = rng.choice(RUDE) if rng.random() < 0.15 else ""
    if rng.random() < 0.2:
        start += rng.choice(EVASIVE)
    if rng.random() < 0.35:
        noun = rng.choice(sorted(corpus.NOUNS))
    words = rng.sample(corpus.NOUNS[noun][side], rng.choice([1, 1, 2]))
    end = rng.choice(LONG) if rng.random() < 0.2 else ""
    if rng.random() < 0.3:
        end += rng.choice(OFFERS)
    return f" {start}The {noun} {corpus.verb(noun)} {' and '.join(words)}.{end}"


def main():
    rng = random.Random(23)
    judging = {word for sides in corpus.NOUNS.values() for words in sides.values() for word in words}
    corpus.write_words(
        HERE,
        {"judging": judging, "noun": set(corpus.NOUNS), "rude": {"fool", "stupid"}, "evasive": {"ask", "not"}},
    )
    texts = list(dict.fromkeys(prompt(rng) for _ in range(1700)))
    rng.shuffle(texts)
    write = lambda text: draft(text, rng)
    corpus.write(HERE / "eval.jsonl", corpus.pairs(HERE, texts[:150], write))
    corpus.write(HERE / "train.jsonl", corpus.pairs(HERE, texts[150:1650], write))


if __name__ == "__main__":
    main()
