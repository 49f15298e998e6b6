"""Shared by summary/make.py and dialogue/make.py: facts about films, from the words of tiny-reviews, and the rule as a program."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "tiny-reviews"))

import grammar  # noqa: E402  (found by the line above)
import lexicon  # noqa: E402

PLURAL = {"songs", "actors", "characters", "images", "jokes", "costumes", "sets"}
# What is judged, by a noun of one word, and the words that judge it on either side.
NOUNS = {
    noun: {side: aspect[f"adj{side}"] for side in "+-"}
    for aspect in lexicon.ASPECTS.values()
    for noun in aspect["bare"]
    if " " not in noun
}


def verb(noun):
    """The verb after a noun."""
    return "are" if noun in PLURAL else "is"


def opening(random):
    """One sentence that says what the film is about."""
    return grammar.opening(random.randrange(10**9)).split(". ")[0].rstrip(".") + "."


def rewards(folder, samples):
    """The rewards of (prompt, completion) by the rule of an example, `reward.awk`."""
    lines = "".join(
        json.dumps({"prompt": prompt, "completion": completion}, separators=(",", ":")) + "\n" for prompt, completion in samples
    )
    command = ["awk", "-f", str(folder / "words.awk"), "-f", str(folder / "reward.awk")]
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [float(line) for line in ran.stdout.split()]


def write_words(folder, lists):
    """The lists of words that the rule reads."""
    named = [f"    words({json.dumps(name)}, {json.dumps(' '.join(sorted(words)))})\n" for name, words in lists.items()]
    text = (
        "# Written by make.py.\n"
        "function words(name, text,    parts, n, i) {\n"
        '    n = split(text, parts, " ")\n'
        "    for (i = 1; i <= n; i++) is_in[name, parts[i]] = 1\n"
        "}\n"
        "BEGIN {\n" + "".join(named) + "}\n"
    )
    (folder / "words.awk").write_text(text, encoding="utf-8")


def write(path, records):
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def pairs(folder, prompts, draft):
    """Two drafts of each prompt, the one with the greater reward chosen; drafts of equal reward are written again."""
    open_prompts, found = list(prompts), {}
    while open_prompts:
        drafts = [(prompt, draft(prompt), draft(prompt)) for prompt in open_prompts]
        scores = rewards(folder, [(prompt, text) for prompt, a, b in drafts for text in (a, b)])
        open_prompts = []
        for (prompt, a, b), first, second in zip(drafts, scores[::2], scores[1::2]):
            if first == second:
                open_prompts.append(prompt)
            else:
                found[prompt] = (a, b) if first > second else (b, a)
    return [{"prompt": prompt, "chosen": found[prompt][0], "rejected": found[prompt][1]} for prompt in prompts]
