"""What the scripts here share: the program, its base and adapter, and what it says they compute."""
import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "models"
PROMPTS = [
    "The film is about a sailor.", "I watched this mystery with my brother.", "The costumes", "My sister chose this comedy.",
    "It follows a famous detective who leaves a quiet village.", "I saw this western on Friday.",
]
NEW_TOKENS = 20
QUICKSTART = ROOT / "examples" / "tiny-reviews" / "model", ROOT / "adapters" / "tiny-reviews-favourable"
# The same matrices under other rules of their scale.
VARIANTS = {"rslora": dict(use_rslora=True), "patterns": dict(alpha_pattern={"q_proj": 8, r"layers\.[01]\.mlp\.down_proj": 48})}


def fixture(model, case="plain"):
    return FIXTURES / model, FIXTURES / model / "adapters" / case


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "dpo-lora"))
    parser.add_argument("--base", help="a model directory, with --adapter: instead of the cases")
    parser.add_argument("--adapter", help="a PEFT directory")
    os.environ["HF_HUB_OFFLINE"] = "1"
    return parser.parse_args()


def cases(args, place, fixtures):
    """(name, base, adapter): what the command line names; or the quickstart's adapter, its variants, and these fixtures."""
    if args.base:
        yield "yours", Path(args.base).resolve(), Path(args.adapter).resolve()
        return
    base, adapter = QUICKSTART
    yield "quickstart", base, adapter
    for name, change in VARIANTS.items():
        shutil.copytree(adapter, place / name)
        file = place / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        yield name, base, place / name
    yield from ((name, *case) for name, case in fixtures.items())


def check_all(doc, fixtures, check):
    """Calls `check(name, base, adapter, args, place)` for each case, in a place of its own."""
    args = arguments(doc)
    with tempfile.TemporaryDirectory() as made:
        for name, base, adapter in cases(args, Path(made), fixtures):
            with tempfile.TemporaryDirectory() as place:
                check(name, base, adapter, args, Path(place))


def program(binary, *args):
    return subprocess.run([str(arg) for arg in (binary, *args)], check=True, stdout=subprocess.PIPE, text=True).stdout


def greedy(binary, base, adapter=None):
    """The completion of each prompt, always the likeliest token, in float32."""
    more = ["--adapter", adapter] if adapter else []
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    out = program(binary, "generate", "--base", base, *more, "--dtype", "f32", "--no-chat", "--json", "--max-new-tokens", NEW_TOKENS, *prompts)
    return [json.loads(line)["completion"] for line in out.splitlines()]


def scores(binary, base, adapter, pairs):
    """(policy, reference) log-prob of each pair's chosen completion, in nats, in float32."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as data:
        data.writelines(json.dumps(pair) + "\n" for pair in pairs)
        data.flush()
        out = program(binary, "score", "--base", base, "--adapter", adapter, "--dtype", "f32", "--data", data.name)
    lines = [json.loads(line) for line in out.splitlines()]
    return [(line["chosen_logp"], line["ref_chosen_logp"]) for line in lines]


def pairs(count=4):
    data = ROOT / "examples" / "tiny-reviews" / "eval.jsonl"
    return [json.loads(line) for line in data.read_text().splitlines()[:count]]


def encode(tokenizer, pair):
    """How many tokens the prompt has, and all tokens of prompt, completion and end."""
    prompt = tokenizer(pair["prompt"])["input_ids"]
    ids = tokenizer(pair["prompt"] + pair["chosen"])["input_ids"] + [tokenizer.eos_token_id]
    assert ids[: len(prompt)] == prompt, "a token crosses the border"
    return len(prompt), ids
