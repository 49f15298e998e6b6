"""What PEFT makes of each key of `adapter_config.json`, and whether it takes what this program writes.

    python tests/parity/peft_config.py --write tests/fixtures/peft_lora_config.json     # for tests/peft_config.rs
    cargo build --release && python tests/parity/peft_config.py --binary target/release/dpo-lora

With --write: every field of PEFT's LoraConfig with its default; every initialisation that PEFT has, and whether it changed
the base when an adapter was made with it; and for a table of settings the summed log-prob that PEFT computes with
`tests/fixtures/models/llama` and its adapter `plain` under that setting, or the error that it gives.

With --binary: PEFT loads what `export --format peft` writes of each fixture. A warning is an error, every key is a field of
LoraConfig, every other field has its default, and every tensor lands in the model.
"""
import argparse
import copy
import dataclasses
import inspect
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import typing
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from files import write_json

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "fixtures" / "models"
IDS = [5, 17, 100, 42, 9, 250, 63, 7, 7, 311, 20]  # of llama's vocabulary of 320
PATH = "model.layers.1.self_attn.q_proj"

# A key with a value that is not its default: what it does is measured.
SETTINGS = [
    {"alora_invocation_tokens": [9]}, {"alpha_pattern": {"q_proj": 3}}, {"alpha_pattern": {PATH: 3, "q_proj": 7}},
    {"alpha_pattern": {r"model\.layers\.[01]\..*": 3}}, {"alpha_pattern": {f"base_model.model.{PATH}": 3}}, {"alpha_pattern": {"no_such": 3}},
    {"arrow_config": {"top_k": 1}}, {"auto_mapping": {"base_model_class": "X", "parent_library": "y"}}, {"base_model_name_or_path": "elsewhere"},
    {"bias": "all"}, {"bias": "lora_only"}, {"corda_config": {"corda_method": "kpm"}}, {"ensure_weight_tying": True}, {"eva_config": {"rho": 1.0}},
    {"exclude_modules": ["q_proj"]}, {"exclude_modules": r".*\.layers\.0\..*"}, {"fan_in_fan_out": True}, {"inference_mode": False},
    {"init_lora_weights": False}, {"kasa_config": {}}, {"layer_replication": [[0, 2], [1, 2]]}, {"layers_pattern": "layers"},
    {"layers_to_transform": [0]}, {"layers_to_transform": 1, "layers_pattern": ["layers"]}, {"layers_to_transform": [0, 1], "layers_pattern": "h"},
    {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}, {"lora_alpha": 3}, {"lora_bias": True}, {"lora_dropout": 0.5}, {"lora_ga_config": {}},
    {"megatron_core": "another.core"}, {"modules_to_save": ["lm_head"]}, {"monteclora_config": {}}, {"peft_version": "0.0.1"}, {"qalora_group_size": 4},
    {"r": 2}, {"rank_pattern": {"q_proj": 2}}, {"rank_pattern": {"no_such": 2}}, {"revision": "main"}, {"runtime_config": {"ephemeral_gpu_offload": True}},
    {"target_modules": ["q_proj"]}, {"target_modules": r".*\.(q|v)_proj"}, {"target_modules": "all-linear"}, {"target_modules": [PATH]},
    {"target_modules": None}, {"target_parameters": ["model.layers.0.mlp.up_proj.weight"]}, {"task_type": None}, {"task_type": "SEQ_CLS"},
    {"trainable_token_indices": [5]}, {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 2}}, {"use_dora": True}, {"use_qalora": True},
    {"use_rslora": True}, {"velora_config": {"num_groups": 4}}, {"a_key_of_the_future": None}, {"a_key_of_the_future": True},
]


def base(name="llama"):
    return AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def logp(model):
    logps = model(torch.tensor([IDS])).logits[0].double().log_softmax(-1)
    return sum(logps[at - 1, IDS[at]].item() for at in range(1, len(IDS)))


def under(setting):
    """The log-prob with the adapter `plain` under a setting, or PEFT's error."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(shutil.copytree(MODELS / "llama" / "adapters" / "plain", Path(place) / "adapter"))
        config = place / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | setting))
        torch.manual_seed(0)
        try:
            return dict(logp=logp(PeftModel.from_pretrained(base(), place).eval()))
        except Exception as error:  # whatever PEFT says
            return dict(error=f"{type(error).__name__}: {error}".splitlines()[0][:160])


def inits():
    """Every name that `init_lora_weights` may have: of its annotation, and of the code that reads it."""
    names = set()
    for hint in typing.get_args(typing.get_type_hints(LoraConfig)["init_lora_weights"]):
        names |= {name.split("[")[0] for name in typing.get_args(hint)}
    code = inspect.getsource(LoraLayer.update_layer) + inspect.getsource(LoraLayer.reset_lora_parameters)
    names |= set(re.findall(r'init_lora_weights(?:\.lower\(\))?(?: == |\.startswith\()"(\w+)"', code))
    return sorted(name + "16" if name.endswith("niter_") else name for name in names)


def changes_base(init):
    """Whether the base's weights are others once an adapter was made with this initialisation."""
    if init == "loftq":  # LoraLayer.loftq_init puts a quantised weight in the base's place; it needs CUDA
        return "qweight" in inspect.getsource(LoraLayer.loftq_init)
    model = base()
    before = copy.deepcopy(model.state_dict())
    more = {}
    if init == "lora_ga":
        more["lora_ga_config"] = peft.tuners.lora.config.LoraGAConfig()
    if init == "eva":
        more["eva_config"] = peft.EvaConfig()
    if init == "corda":
        more["corda_config"] = peft.tuners.lora.config.CordaConfig()
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=init, task_type="CAUSAL_LM", **more)
    ids = torch.randint(0, 320, (64, 16), generator=torch.Generator().manual_seed(1))
    if init == "corda":
        from peft.tuners.lora.corda import preprocess_corda
        preprocess_corda(model, config, run_model=lambda: [model(one[None]) for one in ids])
    if init == "lora_ga":
        from peft.tuners.lora.loraga import preprocess_loraga
        preprocess_loraga(model, config, lambda: model(ids, labels=ids).loss.backward())
    after = get_peft_model(model, config).get_base_model().state_dict()
    after = {name.replace(".base_layer", ""): weight for name, weight in after.items()}
    return any(not torch.equal(weight, after[name]) for name, weight in before.items())


def jsonable(value):
    return sorted(value) if isinstance(value, set) else value


def write(path):
    defaults = {name: jsonable(value) for name, value in LoraConfig().to_dict().items()}
    del defaults["peft_version"]
    fields = {field.name for field in dataclasses.fields(LoraConfig)} - {"peft_version"}
    assert fields - set(defaults) == {"runtime_config"}, "a field that is not written"
    changed = {init: changes_base(init) for init in inits()}
    plain = logp(PeftModel.from_pretrained(base(), MODELS / "llama" / "adapters" / "plain").eval())
    settings = SETTINGS + [{"init_lora_weights": init} for init in changed if init != "loftq"]
    cases = [dict(setting=setting, **under(setting)) for setting in settings]
    write_json(path, dict(peft=peft.__version__, ids=IDS, plain=plain, bare=logp(base()), defaults=defaults, changes_base=changed, cases=cases))
    for case in cases:
        print(f"{json.dumps(case['setting']):80} {case.get('error') or round(case['logp'] - plain, 4)}")
    print(changed)


class Loud(logging.Handler):
    def emit(self, record):
        raise AssertionError(f"PEFT or transformers says: {record.getMessage()}")


def check(binary):
    warnings.simplefilter("error")
    # PEFT 0.21 asks transformers 5.24 by a name that is going away.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    logging.getLogger("peft").addHandler(Loud(logging.WARNING))
    fields = {field.name: field for field in dataclasses.fields(LoraConfig)}
    count = 0
    for adapter in sorted(MODELS.glob("*/adapters/*")):
        model, case = adapter.parents[1], adapter.name
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "out"
            command = [binary, "-q", "export", "--base", model, "--adapter", adapter, "--format", "peft", "--output", out]
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
            written = json.loads((out / "adapter_config.json").read_text())
            assert set(written) <= set(fields), set(written) - set(fields)
            loaded = PeftModel.from_pretrained(base(model.name), out)
            config = {key: jsonable(value) for key, value in loaded.peft_config["default"].to_dict().items()}
            expected = LoraConfig().to_dict() | written
            expected["target_modules"] = sorted(written["target_modules"])
            assert config == expected, {key: (config[key], expected.get(key)) for key in config if config[key] != expected.get(key)}
            with safe_open(out / "adapter_model.safetensors", "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            held = get_peft_model_state_dict(loaded)
            assert set(held) == set(tensors), set(held) ^ set(tensors)
            assert all(torch.equal(held[name], tensor) for name, tensor in tensors.items())
            theirs = PeftModel.from_pretrained(base(model.name), adapter)
            off = abs(logp(loaded.eval()) - logp(theirs.eval()))
            assert off < 1e-4, (model.name, case, off)
            count += 1
    print(f"PEFT {peft.__version__} loads {count} written adapters of {len(list(MODELS.iterdir()))} models without a warning; "
          f"every field and tensor is what was written, and the log-prob is that of the adapter PEFT saved")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--binary", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.write:
        write(options.write)
    if options.binary:
        check(options.binary)
