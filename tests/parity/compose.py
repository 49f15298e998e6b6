"""Adapters combined by PEFT's `add_weighted_adapter`, for `src/adapter/compose`."""
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import merge_utils
from safetensors.torch import save_file

from files import write_json
from models import load_model
from scores import save_adapter

ADAPTERS = {
    "a": dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    "b": dict(r=4, lora_alpha=3, target_modules=["q_proj", "down_proj"]),
    "c": dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], use_rslora=True),
}
AB, ABC = dict(adapters=["a", "b"], weights=[0.7, 0.4]), dict(adapters=["a", "b", "c"], weights=[0.7, 0.4, -0.5])
CASES = {
    "linear": dict(AB, combination_type="linear"),
    "difference": dict(AB, weights=[1.0, -0.6], combination_type="linear"),
    "scaled": dict(adapters=["a"], weights=[-0.25], combination_type="linear"),
    "cat": dict(ABC, combination_type="cat"),
    "svd": dict(ABC, combination_type="svd", svd_rank=5),
    "svd-of-largest": dict(ABC, combination_type="svd"),
    "ties": dict(AB, combination_type="ties", density=0.6),
    "ties-frequency": dict(AB, weights=[0.7, -0.4], combination_type="ties", density=0.5, majority_sign_method="frequency"),
    "dare-linear": dict(AB, combination_type="dare_linear", density=0.6),
    "dare-ties": dict(AB, combination_type="dare_ties", density=0.6),
    "dare-ties-whole": dict(AB, combination_type="dare_ties", density=1.0),
    "magnitude-prune": dict(AB, combination_type="magnitude_prune", density=0.3),
}


def masked(tensor, density, rescale):
    """PEFT's `random_pruning` with a mask that can be written down."""
    mask = ((torch.arange(tensor.numel()) * 7 + 3) % 10 / 10.0 < density).reshape(tensor.shape)
    return tensor * mask / (density if rescale else 1)


def make_compose(out):
    base, place = out / "models" / "llama", out / "compose"
    merge_utils.random_pruning = masked
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        torch.manual_seed(2000 + seed)
        model = get_peft_model(load_model(base), LoraConfig(task_type="CAUSAL_LM", **config))
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.data.normal_(0.0, 0.2)
        save_adapter(model, place / name, base="llama")
    model = PeftModel.from_pretrained(load_model(base), place / "a", adapter_name="a")
    for name in ("b", "c"):
        model.load_adapter(place / name, adapter_name=name)
    for name, case in CASES.items():
        model.add_weighted_adapter(adapter_name=name, **case)
        tensors = {}
        for key, module in model.named_modules():
            if name in getattr(module, "lora_A", {}):
                path = key.removeprefix("base_model.model.")
                tensors[f"{path}.lora_A"] = module.lora_A[name].weight.data.contiguous()
                tensors[f"{path}.lora_B"] = module.lora_B[name].weight.data.contiguous()
        save_file(tensors, place / f"{name}.safetensors")
        model.delete_adapter(name)
    write_json(place / "cases.json", CASES)
