"""What transformers makes of each tiny model when one thing about it is changed: a key of config.json, or a tensor.

    python tests/parity/mutations.py tests/fixtures [NAME...]     # writes tests/fixtures/mutations/NAME.json

A file is `{base, mutations}`. A mutation is one edit of config.json or of the tensors:
`{"remove": PATH}`, `{"set": PATH, "to": VALUE}` with PATH as "text_config.rope_parameters.factor"; `{"set_all": {PATH: VALUE, ...}}`, keys that change nothing, together; `{"remove_tensor": NAME}`, `{"rename_tensor": NAME, "to": NAME}`,
`{"add_tensor": NAME, "shape": [...]}`: element i of the flattened tensor is 0.1·sin(i), in float32, or `{"add_tensor": NAME, "copy_of": NAME}`.
`outcome` says what came of it: a list is the log-probs of chosen and rejected of the first two records of pairs.jsonl, as `base` has them without a change; "same": they are the very
ones of `base`; "missing": tensors that the model needs are not there (`keys`), and transformers draws them at random; "error": loading or running fails (`why`);
"not finite". Beside it, where there are any: `unexpected`, tensors that transformers found and did not use; `warned`, the beginning of its warnings.
"""
import json
import logging
import math
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

SETTINGS = dict(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1", PYTHONHASHSEED="0", OMP_NUM_THREADS="1", ATEN_CPU_CAPABILITY="avx2", PYTHONDONTWRITEBYTECODE="1")
if any(os.environ.get(key) != value for key, value in SETTINGS.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})

import torch
import transformers
from safetensors.torch import load_file, save_file

from mutation_values import about_rotation, added, alone, first_of_family, others
from families import LATER
from logps import completion_logp
from models import MODELS, auto_class

SECONDS = 20  # for one mutation


class Warnings(logging.Handler):
    """What transformers says while a model is loaded and run."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts, self.usual = [], set()

    def emit(self, record):
        text = re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()).strip()
        if not re.search(r"LOAD REPORT|Key +\| Status|torch_dtype", text):
            self.texts.append(text.splitlines()[0][:80])


# config.json ---------------------------------------------------------------------------------------------------------------------------------------------------


def paths(config, prefix=""):
    """Every key with its value, those of parts too; of a vision tower only itself."""
    for key, value in config.items():
        yield prefix + key, value
        if isinstance(value, dict) and key != "vision_config":
            yield from paths(value, f"{prefix}{key}.")


def config_mutations(name, config):
    for path, value in paths(config):
        yield dict(remove=path)
        for other in others(path.rpartition(".")[2], value):
            yield dict(set=path, to=other)
    yield from (dict(set=path, to=value) for path, value in about_rotation(config))


def edit_config(config, mutation):
    config = json.loads(json.dumps(config))
    for path, value in mutation.get("set_all", {mutation.get("remove") or mutation.get("set"): mutation.get("to")}).items():
        *parts, last = path.split(".")
        part = config
        for key in parts:
            part = part[key]
        if "remove" in mutation:
            del part[last]
        else:
            part[last] = value
    return config


def added_mutations(keys, attempt):
    """Each key alone, or those together that change nothing: found by halving."""
    if len(keys) == 1:
        mutation = dict(set=keys[0][0], to=keys[0][1])
        return [mutation | attempt(mutation)]
    mutation = dict(set_all=dict(keys))
    found = attempt(mutation)
    if found == dict(outcome="same"):
        return [mutation | found]
    half = len(keys) // 2
    return added_mutations(keys[:half], attempt) + added_mutations(keys[half:], attempt)


# tensors -------------------------------------------------------------------------------------------------------------------------------------------------------


def tensor_mutations(name, tensors):
    """Of the layers' tensors those of the first, of a vision tower the first alone: the others fare alike."""
    layer = re.compile(r"\.(layers|h|blocks)\.[1-9]\d*\.")
    vision = [tensor for tensor in tensors if re.search("vision|visual|projector", tensor)]
    chosen = [tensor for tensor in tensors if not layer.search(tensor) and tensor not in vision[1:]]
    if first_of_family(name):
        yield from (dict(remove_tensor=tensor) for tensor in chosen)
        yield from (dict(rename_tensor=tensor, to=f"{tensor}_old") for tensor in chosen[:3] + chosen[-2:])
    attention = next(tensor for tensor in tensors if re.search(r"\.0\..*(q_proj|c_attn|query_key_value|qkv_proj)\.weight", tensor))
    module, block = attention.removesuffix(".weight"), attention.rpartition(".")[0].rpartition(".")[0]
    embedding = next(tensor for tensor in tensors if re.search(r"(embed_tokens|wte|embed_in|word_embeddings)\.weight", tensor))
    heads = [tensor for tensor in tensors if re.search(r"(lm_head|embed_out)\.weight", tensor)]
    width = tensors[attention].shape[1 if "c_attn" in attention and "gpt2" in name else 0]
    extras = {f"{module}.bias": [width], f"{block}.q_norm.weight": [8], f"{block}.rotary_emb.inv_freq": [4], f"{block}.bias": [1, 1, 16, 16], f"{block}.masked_bias": [1], "foo.weight": [4, 4],
              "model.foo.weight": [4, 4], "lm_head.bias": [tensors[embedding].shape[0]], "model.position_ids": [1, 16], f"{module}.lora_A.weight": [4, 4], f"{module}.weight_scale": [1],
              attention.replace(".0.", ".9.", 1): list(tensors[attention].shape), f"model.{attention}": list(tensors[attention].shape)}
    yield from (dict(add_tensor=extra, shape=shape) for extra, shape in extras.items() if extra not in tensors)
    if not heads:
        for head in ("lm_head.weight", "language_model.lm_head.weight")[: 2 if embedding.startswith("language_model") else 1]:
            yield dict(add_tensor=head, shape=list(tensors[embedding].shape))
            yield dict(add_tensor=head, copy_of=embedding)
            yield dict(rename_tensor=embedding, to=head)
    # without and with the prefix of the whole model
    yield dict(rename_tensor=attention, to=attention.partition(".")[2])


def edit_tensors(tensors, mutation):
    tensors = dict(tensors)
    if "remove_tensor" in mutation:
        del tensors[mutation["remove_tensor"]]
    elif "rename_tensor" in mutation:
        tensors[mutation["to"]] = tensors.pop(mutation["rename_tensor"])
    elif "copy_of" in mutation:
        tensors[mutation["add_tensor"]] = tensors[mutation["copy_of"]].clone()
    else:
        shape = mutation["shape"]
        tensors[mutation["add_tensor"]] = (0.1 * torch.sin(torch.arange(math.prod(shape), dtype=torch.float64))).float().reshape(shape)
    return tensors


# outcomes ------------------------------------------------------------------------------------------------------------------------------------------------------


def logps(model, records):
    return [completion_logp(model, record["prompt_ids"], record[f"{side}_ids"]) for record in records for side in ("chosen", "rejected")]


def outcome(directory, records, base, heard):
    heard.texts.clear()
    logging.Logger.warning_once.cache_clear()
    torch.manual_seed(0)
    signal.alarm(SECONDS)
    try:
        model_type = json.loads((directory / "config.json").read_text()).get("model_type")
        model, info = auto_class(model_type).from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        result = numbers(logps(model.eval(), records), sorted(info["missing_keys"]), base)
        if info["unexpected_keys"]:
            result["unexpected"] = sorted(info["unexpected_keys"])[:3]
    except TimeoutError:
        raise
    except Exception as error:  # whatever it is, transformers does not go on
        return dict(outcome="error", why=reason(error).replace(str(directory), "DIRECTORY")[:80])
    finally:
        signal.alarm(0)
    warned = sorted(set(heard.texts) - heard.usual)[:1]
    return result | (dict(warned=warned[0].replace(str(directory), "DIRECTORY")) if warned else {})


def numbers(made, missing, base):
    missing = missing[:3]
    if made == base:
        return dict(outcome="same", **({"missing": missing} if missing else {}))
    if missing:
        return dict(outcome="missing", keys=missing)
    return dict(outcome=[round(value, 4) for value in made] if all(map(math.isfinite, made)) else "not finite")


def reason(error):
    """Without what is the same in all."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if "ignore_mismatched_sizes" in text:
        return "a tensor's shape"
    return re.sub(r"^Strict\w+: .*?: (?=\w+Error: )", "", text)


def late(*_):
    raise TimeoutError(f"takes more than {SECONDS} s")


def mutate(out, name, heard):
    path = out / "models" / name
    records = json.loads((out / "tokens.json").read_text())[0]["records"][:2]
    config = json.loads((path / "config.json").read_text())
    tensors = load_file(path / "model.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        os.symlink(path / "model.safetensors", directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(config))
        heard.usual = set()
        plain = outcome(directory, records, None, heard)
        heard.usual = set(heard.texts)
        assert "unexpected" not in plain, plain
        base = logps(auto_class(config["model_type"]).from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval(), records)
        def attempt(mutation):
            (directory / "config.json").write_text(json.dumps(edit_config(config, mutation)))
            return outcome(directory, records, base, heard)

        found = [mutation | attempt(mutation) for mutation in config_mutations(name, config)]
        if first_of_family(name):
            found += [mutation | attempt(mutation) for mutation in (dict(set=path, to=value) for path, value in alone(config))]
            found += added_mutations(list(added(config)), attempt)
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "model.safetensors").unlink()
        for mutation in tensor_mutations(name, tensors):
            save_file(edit_tensors(tensors, mutation), directory / "model.safetensors", metadata={"format": "pt"})
            found.append(mutation | outcome(directory, records, base, heard))
    return plain["outcome"], found


def main():
    out = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_default_handler()
    heard = Warnings()
    logging.getLogger("transformers").addHandler(heard)
    signal.signal(signal.SIGALRM, late)
    (out / "mutations").mkdir(exist_ok=True)
    for name in sys.argv[2:] or [name for name in MODELS if name not in LATER]:
        base, found = mutate(out, name, heard)
        lines = ",\n".join("  " + json.dumps(mutation) for mutation in found)
        (out / "mutations" / f"{name}.json").write_text(f'{{\n "base": {json.dumps(base)},\n "mutations": [\n{lines}\n ]\n}}\n')
        print(name, len(found), flush=True)


if __name__ == "__main__":
    main()
