"""The training runs that measure.py times, and what is wanted of them."""

import dataclasses

SMALL, MIDDLE, LARGE = "qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b"
GGUF = "the file of --gguf"


@dataclasses.dataclass(frozen=True)
class Case:
    """A training run, what the peer runs beside it, and what is wanted."""

    name: str
    model: str
    data: str
    batch: int
    steps: int = 11
    sets: tuple = ()
    peer: str = None  # options of trl_step.py
    ratio: float = None  # the peer's best step / our median one, at least
    gigabytes: float = None  # at most
    tokens: int = None  # packed, a second, at least
    first: float = None  # seconds from the command to the end of the first step, at most
    speed_of: tuple = None  # another case and the share of its speed, at least

    def wanted(self, ratio, rate, above, first, median, medians):
        """What is wanted in words, and whether it is so (None: not known). `above`: GB above the context; `medians`:
        seconds of the cases so far."""
        if self.ratio:
            yield f">= {self.ratio} times as fast", None if ratio is None else ratio >= self.ratio
        if self.tokens:
            yield f">= {tokens(self.tokens)}", rate >= self.tokens
        if self.gigabytes:
            yield f"<= {self.gigabytes} GB above the context", None if above is None else above <= self.gigabytes
        if self.first:
            yield f"first step after <= {self.first} s", None if first is None else first <= self.first
        if self.speed_of:
            name, share = self.speed_of
            other = medians.get(name)
            yield f">= {share} of the speed of {name}", None if other is None else other / median >= share


def tokens(count):
    return f"{count:,.0f} tokens/s"


def gigabytes(count):
    return "memory unknown" if count is None else f"{count:.1f} GB"


def large(name, model=LARGE, **others):
    return Case(name, model, "long", 8, steps=7, **others)


CASES = [
    Case("0.5b-short-4", SMALL, "short", 4, peer="liger", ratio=6),
    Case("0.5b-short-16", SMALL, "short", 16, peer="liger", ratio=5),
    Case("0.5b-long-16", SMALL, "long", 16, peer="liger", ratio=4),
    Case("1b-short-16", MIDDLE, "short", 16, peer="liger", ratio=4, first=4),
    Case("1b-long-16", MIDDLE, "long", 16, peer="liger", ratio=3, tokens=50_000, first=4),
    large("8b-long-8", sets=("train.gradient_checkpointing=false",), peer="liger", ratio=2.3, gigabytes=40),
    large("8b-long-8-gc", sets=("train.gradient_checkpointing=true",), peer="gc", ratio=3, gigabytes=21),
    large("8b-long-8-nf4", sets=("model.load_in_4bit=nf4", "train.gradient_checkpointing=true"), gigabytes=16,
           speed_of=("8b-long-8", 0.6)),
    large("8b-long-8-gguf", GGUF),
]
LONG_1B = next(case for case in CASES if case.name == "1b-long-16")
LONG_8B = next(case for case in CASES if case.name == "8b-long-8")
