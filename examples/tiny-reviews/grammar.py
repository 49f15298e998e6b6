"""A small grammar of English film reviews, half of them favourable, half unfavourable.

`review(seed)` writes one: an opening that says what the film is about and judges nothing (the prompt), then one to
four sentences that take one side. `reward(text)` is the ground truth, and `is_grammatical(text)` says whether every
sentence is one the grammar could have written, which measures how fluent a model's samples are; `is_on_topic` whether
they keep to the opening's lead and genre.

    python grammar.py            a few reviews
    python grammar.py --stats    figures over 20,000 of them
"""

import argparse
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import lexicon

SIDES = "+-"
OTHER = {"+": "-", "-": "+"}
KINDS = {"": "clause", "f": "found", "b": "bare"}  # what a sentence's slots {1}, {f1}, {b1} stand for
BOUND = ("lead", "genre")  # slots that keep their value within a review
MIN_WORDS, MAX_WORDS = 25, 60


def build_rules():
    """Every rule as name -> [(weight, template)]; an aspect's rules are called clause.music+, adj.story- and so on."""
    rules = {}

    def add(name, alternatives):
        rules[name] = [a if isinstance(a, tuple) else (1, a) for a in alternatives]

    for table in (lexicon.OPENING_RULES, lexicon.SIDED_RULES, lexicon.NEUTRAL_RULES):
        for name, alternatives in table.items():
            add(name, alternatives)
    for name, aspect in lexicon.ASPECTS.items():
        subjects = [(noun, f"{{is.{name}}}") for noun in aspect.get("sg", [])]
        subjects += [(noun, f"{{are.{name}}}") for noun in aspect.get("pl", [])]
        add(f"is.{name}", aspect.get("is", ["is"]))
        add(f"are.{name}", aspect.get("are", ["are"]))
        add(f"np.{name}", [noun for noun, _ in subjects])
        for side in SIDES:
            adjective = f"{{adj.{name}{side}}}"
            add(f"adj.{name}{side}", aspect[f"adj{side}"])
            add(
                f"judged.{name}{side}",
                [(5, adjective), (2, f"{{adverb}} {adjective}"), (2, f"{adjective} and {adjective}"),
                 (2, f"{{any{side}}}")],
            )
            plain = [f"{noun} {verb} {{judged.{name}{side}}}" for noun, verb in subjects]
            whole = aspect.get(f"clause{side}", [])
            tailed = [f"{clause} {{tail}}" for clause in plain] if aspect.get("tail") else []
            add(
                f"clause.{name}{side}",
                [(6 / len(plain), clause) for clause in plain]
                + [(3 / len(whole), clause) for clause in whole]
                + [(1 / len(tailed), clause) for clause in tailed],
            )
            add(f"found.{name}{side}", [f"{{np.{name}}} {adjective}", f"{{np.{name}}} {{adverb}} {adjective}"])
            add(f"bare.{name}{side}", [f"{adjective} {noun}" for noun in aspect["bare"]])
    for kind in KINDS.values():
        for side in SIDES:
            add(f"{kind}.any{side}", [f"{{{kind}.{name}{side}}}" for name in lexicon.ASPECTS])
    return rules


RULES = build_rules()


def build_words():
    """The two lists of words the reward counts, which have no word in common."""
    lists = {}
    for side, names in (("+", lexicon.FAVOURABLE_RULES), ("-", lexicon.UNFAVOURABLE_RULES)):
        words = set(lexicon.MORE_WORDS[side])
        for name in names:
            words.update(lexicon.SIDED_RULES[name])
        for aspect in lexicon.ASPECTS.values():
            words.update(aspect[f"adj{side}"])
        lists[side] = frozenset(words)
    assert not lists["+"] & lists["-"], lists["+"] & lists["-"]
    return lists


WORDS = build_words()


def words_of(text):
    """The words of a text in lower case."""
    return re.findall(r"[a-z']+", text.lower())


def reward(text):
    """Ground truth: favourable words / (favourable + unfavourable words), and 0.5 where there is neither."""
    words = words_of(text)
    favourable = sum(word in WORDS["+"] for word in words)
    unfavourable = sum(word in WORDS["-"] for word in words)
    return favourable / (favourable + unfavourable) if favourable + unfavourable else 0.5


@dataclass(frozen=True)
class Review:
    """One review: a neutral opening, what follows it (with its leading space), and its side, "+" or "-"."""

    opening: str
    body: str
    side: str

    @property
    def text(self):
        return self.opening + self.body


class Writer:
    """Expands rules with one random generator; remembers the bound slots of the review under way."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.bound = {}
        self.nats = 0.0  # -log of the probability of all choices made

    def choose(self, alternatives):
        """One of (weight, value)."""
        total = sum(weight for weight, _ in alternatives)
        at = self.random.random() * total
        for weight, value in alternatives:
            at -= weight
            if at < 0:
                break
        self.nats -= math.log(weight / total)
        return value

    def pick(self, values):
        """One of equally likely values."""
        return self.choose([(1, value) for value in values])

    def expand(self, template):
        """A template with all its slots filled."""
        return re.sub(r"\{([^}]+)\}", lambda slot: self.fill(slot.group(1)), template)

    def fill(self, name):
        if name == "genres" and "genre" in self.bound:
            return lexicon.PLURALS[self.bound["genre"]]
        if name in self.bound:
            return self.bound[name]
        text = self.expand(self.choose(RULES[name]))
        if name in BOUND:
            self.bound[name] = text
        return text

    def sentence(self, template, side, aspects):
        """A sentence of one side on the next unused aspects (taken off the list)."""
        taken = {}

        def slot(match):
            flip, kind, number = match.groups()
            if number not in taken:
                taken[number] = self.pick(aspects)
                aspects.remove(taken[number])
            return self.fill(f"{KINDS[kind]}.{taken[number]}{OTHER[side] if flip else side}")

        return self.expand(re.sub(r"\{(!?)([fb]?)(\d)\}", slot, template))

    def attempt(self, side):
        """One review of a side, of any length."""
        self.bound, self.nats = {}, 0.0
        opening = self.fill("opening")
        aspects = list(lexicon.ASPECTS)
        sentences = []
        count = self.choose([(2, 1), (4, 2), (2, 3)])
        conceding = self.choose([(1, 0), (9, None)])
        for index in range(count):
            forms = lexicon.FIRST_SENTENCES if index == 0 else lexicon.LATER_SENTENCES + lexicon.SIDED_SENTENCES[side]
            if index == conceding:
                forms = lexicon.CONCESSIONS
            sentences.append(self.sentence(self.choose(forms), side, aspects))
        if count == 1 or self.choose([(2, True), (1, False)]):
            sentences.append(self.expand(self.pick(lexicon.VERDICTS[side])))
        return Review(finish(opening), "".join(" " + finish(s) for s in sentences), side)


def review(seed):
    """The review of a seed: the first attempt of a good length that says no word of judgement twice."""
    return write(seed)[0]


def write(seed):
    """The review of a seed and the nats of the choices behind it (not of the rejections)."""
    writer = Writer(seed)
    side = writer.pick(SIDES)
    while True:
        made = writer.attempt(side)
        words = words_of(made.text)
        judging = [w for w in words if w in WORDS["+"] or w in WORDS["-"]]
        if MIN_WORDS <= len(words) <= MAX_WORDS and len(judging) == len(set(judging)):
            return made, writer.nats + math.log(len(SIDES))


def opening(seed):
    """A neutral opening alone."""
    return finish(Writer(seed).fill("opening"))


def takes_an(word):
    """Whether the article before a word is "an"."""
    return word[0] in "aeiou" or word == "honest"


def finish(sentence):
    """Puts articles and capitals right."""
    sentence = re.sub(r"\ba (?=([A-Za-z']+))", lambda m: "an " if takes_an(m.group(1).lower()) else "a ", sentence)
    sentence = re.sub(r"\bi\b", "I", sentence)
    return re.sub(r"(^|\. )([a-z])", lambda m: m.group(1) + m.group(2).upper(), sentence)


def sentence_templates():
    """Every form of a sentence, openings included, with the slots that a reader may fill."""
    sided = [(f, s) for s in SIDES for _, f in lexicon.LATER_SENTENCES + lexicon.SIDED_SENTENCES[s]]
    sided += [(f, s) for s in SIDES for _, f in lexicon.CONCESSIONS]
    for form, side in sided:
        form = re.sub(r"\{!\d\}", f"{{clause.any{OTHER[side]}}}", form)
        for letter, kind in KINDS.items():
            form = re.sub(rf"\{{{letter}\d\}}", f"{{{kind}.any{side}}}", form)
        yield form
    for side in SIDES:
        yield from lexicon.VERDICTS[side]
    for _, template in RULES["opening"]:
        yield from re.split(r"(?<=\.) ", template)


def tokens_of(text):
    """Words, slots and punctuation; "an" counts as "a" here (see `articles_right`)."""
    return tuple("a" if t == "an" else t for t in re.findall(r"\{[^}]+\}|[a-z']+|[.,]", text.lower()))


@lru_cache(maxsize=None)
def alternatives_of(name):
    if name == "sentence":
        return tuple(dict.fromkeys(tokens_of(t) for t in sentence_templates()))
    return tuple(tokens_of(t) for _, t in RULES[name])


def ends(name, tokens, start, memo):
    """Where a rule that starts at `start` may end."""
    key = (name, start)
    if key not in memo:
        memo[key] = set()
        for alternative in alternatives_of(name):
            at = {start}
            for item in alternative:
                if item.startswith("{"):
                    at = {end for s in at for end in ends(item[1:-1], tokens, s, memo)}
                else:
                    at = {s + 1 for s in at if s < len(tokens) and tokens[s] == item}
                if not at:
                    break
            memo[key] |= at
    return memo[key]


def articles_right(sentence):
    """Whether "a" and "an" stand where they should."""
    pairs = re.findall(r"\b(an?) ([a-z']+)", sentence.lower())
    return all((article == "an") == takes_an(word) for article, word in pairs)


@lru_cache(maxsize=200_000)
def is_sentence(sentence):
    """Whether the grammar could have written this sentence."""
    tokens = tokens_of(sentence)
    tidy = re.fullmatch(r"[A-Z][A-Za-z' ,]*\.", sentence) and "  " not in sentence
    return bool(tidy) and articles_right(sentence) and len(tokens) in ends("sentence", tokens, 0, {})


def sentences_of(text):
    """The sentences of a text."""
    return re.split(r"(?<=\.) ", text.strip())


def is_grammatical(text):
    """Whether every sentence of a text is one the grammar could have written (one at least)."""
    return all(is_sentence(sentence) for sentence in sentences_of(text))


def is_on_topic(opening_text, body):
    """Whether a body speaks of nobody but the opening's lead, and of one genre, the opening's if it names one."""
    opened, told = set(words_of(opening_text)), set(words_of(body))
    singular = {form: genre for genre, plural in lexicon.PLURALS.items() for form in (genre, plural)}
    leads = told.intersection(lexicon.OPENING_RULES["lead"])
    genres = {singular[word] for word in told & singular.keys()}
    named = opened & lexicon.PLURALS.keys()
    return leads <= opened and (genres <= named if named else len(genres) <= 1)


def print_stats(count):
    """Figures over the first reviews, with the checks that the words of judgement are clean."""
    vocabulary, lengths, rewards, nats = Counter(), [], {"+": [], "-": []}, []
    for seed in range(count):
        made, choices = write(seed)
        assert is_grammatical(made.text), made.text
        assert is_on_topic(made.opening, made.body), made.text
        assert not any(w in WORDS["+"] or w in WORDS["-"] for w in words_of(made.opening)), made.opening
        value = reward(made.body)
        assert (value >= 0.5) if made.side == "+" else (value <= 0.5), made.text
        vocabulary.update(words_of(made.text))
        lengths.append(len(words_of(made.text)))
        rewards[made.side].append(value)
        nats.append(choices)
    openings = len({opening(seed) for seed in range(count)})
    print(f"reviews {count}, distinct words {len(vocabulary)}, distinct openings {openings}")
    print(f"words a review: mean {sum(lengths) / count:.1f}, least {min(lengths)}, most {max(lengths)}")
    print(f"favourable share {len(rewards['+']) / count:.3f}")
    print(f"mean reward: favourable {sum(rewards['+']) / len(rewards['+']):.3f}, "
          f"unfavourable {sum(rewards['-']) / len(rewards['-']):.3f}")
    print(f"nats of choices a review: {sum(nats) / count:.1f}")
    print(f"words of judgement: {len(WORDS['+'])} favourable, {len(WORDS['-'])} unfavourable")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stats", action="store_true")
    parser.add_argument("-n", type=int, default=None)
    args = parser.parse_args()
    if args.stats:
        print_stats(args.n or 20_000)
    else:
        for seed in range(args.n or 8):
            made = review(seed)
            print(f"[{made.side} {reward(made.body):.2f}] {made.text}")


if __name__ == "__main__":
    main()
