"""Writes OUT/pairs_short.jsonl and OUT/pairs_long.jsonl: preference pairs of the lengths that run.sh measures.

    make_data.py OUT [--pairs 192] [--from FOLDER]

Without --from: sequences of English words, the same at every call; short: prompt and completions of 40 to 90 words,
long: prompts of 150 to 300 words, completions of 30 to 60; they mean nothing. With --from: FOLDER's two files, repeated
with another end of the prompt until there are enough, so that no pair comes twice and no reference log-prob is known.
"""

import argparse
import json
import pathlib
import random

WORDS = """
the a and of in it that was with for this who but film story music actor teacher lawyer nurse pilot farmer
detective dancer writer director cinema audience camera script dialogue ending opening comedy drama thriller
western mystery romance town island desert forest school home winter years hours friends parents sister brother
uncle stranger neighbour is are on by about around between during again away really truly very simply most every
first second last final small old young quiet famous lonely restless stubborn shy great good bad warm sharp dull
awful superb brilliant charming dreadful shallow finds leaves follows meets returns opens runs plays tells hides
steals watched saw thought left found made made it
""".split()
LENGTHS = {"short": ((40, 90), (40, 90)), "long": ((150, 300), (30, 60))}  # words of prompts, of completions


def sentence(random_, least, most):
    # Early words are frequent ones, as in a language.
    count = random_.randint(least, most)
    return " ".join(WORDS[int(len(WORDS) * random_.random() ** 2)] for _ in range(count))


def invented(kind, pairs):
    random_ = random.Random(f"dpo-lora {kind}")
    prompt, completion = LENGTHS[kind]
    return [
        {"prompt": sentence(random_, *prompt), "chosen": " " + sentence(random_, *completion),
         "rejected": " " + sentence(random_, *completion)}
        for _ in range(pairs)
    ]


def repeated(path, pairs):
    with open(path) as file:
        rows = [json.loads(line) for line in file if line.strip()]
    if not rows or not all(isinstance(row["prompt"], str) for row in rows):
        raise SystemExit(f"{path}: pairs with prompts of plain text are needed")
    found = []
    for i in range(pairs):
        again, row = i // len(rows), rows[i % len(rows)]
        found.append({**row, "prompt": row["prompt"] + (f" {WORDS[again]}" if again else "")})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=192)
    parser.add_argument("--from", dest="source", type=pathlib.Path, metavar="FOLDER")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for kind in LENGTHS:
        name = f"pairs_{kind}.jsonl"
        rows = repeated(args.source / name, args.pairs) if args.source else invented(kind, args.pairs)
        with open(args.out / name, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
