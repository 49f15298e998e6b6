"""Makes checkpoints of real shapes with random weights: config.json, model.safetensors (bf16, one file), tokenizer.

    make_models.py OUT NAME ... [--tokenizer DIR] [--threads N] [--check]

NAME: tiny, smollm2-135m, gemma-3-270m, qwen2.5-0.5b, llama-3.2-1b, llama-3.1-8b. They serve to measure speed and memory; what they say means
nothing.
Needs torch alone. Weights are drawn on the GPU where there is one, each tensor from a seed of its own, so that the
bytes do not depend on the number of threads (those of a GPU and of a processor differ). A model that is there is kept.
--check reads the file again and compares some of its tensors.
"""

import argparse
import json
import math
import os
import pathlib
import queue
import shutil
import struct
import threading
import time
import zlib

import torch

TOKENIZER = pathlib.Path(__file__).resolve().parents[2] / "examples" / "tiny-reviews" / "model"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHUNK = 64 << 20  # bytes written at once


def config(family, hidden, intermediate, heads, kv_heads, layers, vocabulary, theta, tied, **others):
    """A config.json; the other keys are what the family has beside these."""
    return {
        "architectures": [f"{family.removesuffix('_text').capitalize()}ForCausalLM"], "model_type": family, "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": intermediate, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "num_hidden_layers": layers, "vocab_size": vocabulary, "rope_theta": theta,
        "tie_word_embeddings": tied, "hidden_act": "silu", "initializer_range": 0.02, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "use_cache": True, **others,
    }


LLAMA = {"rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "attention_bias": False, "mlp_bias": False}
QWEN2 = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "use_sliding_window": False,
         "sliding_window": 32768, "max_window_layers": 24}
GEMMA3 = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "sliding_window": 512, "query_pre_attn_scalar": 256,
          "rope_local_base_freq": 1e4, "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh",
          "attention_bias": False,
          "layer_types": [f"{'full' if i % 6 == 5 else 'sliding'}_attention" for i in range(18)]}
MODELS = {
    "tiny": config("llama", 64, 128, 4, 2, 2, 32768, 1e4, True, head_dim=16, **LLAMA),
    "smollm2-135m": config("llama", 576, 1536, 9, 3, 30, 49152, 1e5, True, head_dim=64, **LLAMA),
    "gemma-3-270m": config("gemma3_text", 640, 2048, 4, 1, 18, 262144, 1e6, True, head_dim=256, **GEMMA3),
    "qwen2.5-0.5b": config("qwen2", 896, 4864, 14, 2, 24, 151936, 1e6, True, **QWEN2),
    "llama-3.2-1b": config("llama", 2048, 8192, 32, 8, 16, 128256, 5e5, True, head_dim=64, **LLAMA),
    "llama-3.1-8b": config("llama", 4096, 14336, 32, 8, 32, 128256, 5e5, False, head_dim=128, **LLAMA),
}


def shapes(c):
    """The tensors of a model by name, sorted; a tied head is not among them."""
    hidden, intermediate, vocabulary = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    head = c.get("head_dim", hidden // c["num_attention_heads"])
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    found = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        found[at + "input_layernorm.weight"] = [hidden]
        found[at + "post_attention_layernorm.weight"] = [hidden]
        for name, outputs, inputs in [("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)]:
            found[f"{at}self_attn.{name}_proj.weight"] = [outputs, inputs]
            if c["model_type"] == "qwen2" and name != "o":
                found[f"{at}self_attn.{name}_proj.bias"] = [outputs]
        if c["model_type"] == "gemma3_text":
            found[at + "pre_feedforward_layernorm.weight"] = found[at + "post_feedforward_layernorm.weight"] = [hidden]
            found[at + "self_attn.q_norm.weight"] = found[at + "self_attn.k_norm.weight"] = [head]
        for name in ("gate", "up"):
            found[f"{at}mlp.{name}_proj.weight"] = [intermediate, hidden]
        found[f"{at}mlp.down_proj.weight"] = [hidden, intermediate]
    if not c["tie_word_embeddings"]:
        found["lm_head.weight"] = [vocabulary, hidden]
    return dict(sorted(found.items()))


def draw(model, name, shape):
    """A tensor: norms are 1, biases 0, weights normal with deviation 0.02."""
    options = {"dtype": torch.bfloat16, "device": DEVICE}
    if name.endswith("norm.weight"):
        return torch.ones(shape, **options)
    if name.endswith(".bias"):
        return torch.zeros(shape, **options)
    generator = torch.Generator(device=DEVICE)
    generator.manual_seed(zlib.crc32(f"1234/{model}/{name}".encode()))
    return torch.empty(shape, **options).normal_(0.0, 0.02, generator=generator)


def header(tensors):
    """The header's entries, and all that stands before the first tensor's bytes."""
    entries, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        end = at + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return entries, struct.pack("<Q", len(text)) + text


class Writer:
    """Draws tensors and writes them to their places, in several threads: copying and writing is what takes time."""

    def __init__(self, file, model, tensors):
        self.file, self.model, self.tensors = file, model, tensors
        self.entries, start = header(tensors)
        self.base, self.size = len(start), len(start) + 2 * sum(map(math.prod, tensors.values()))
        self.left, self.failed = queue.Queue(), []
        for name in sorted(tensors, key=lambda name: -math.prod(tensors[name])):
            self.left.put(name)
        os.ftruncate(file, self.size)
        os.pwrite(file, start, 0)

    def run(self, threads):
        workers = [threading.Thread(target=self.work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self.failed:
            raise self.failed[0]

    def work(self):
        try:
            stage = torch.empty(CHUNK, dtype=torch.uint8, pin_memory=True) if DEVICE == "cuda" else None
            with torch.cuda.stream(torch.cuda.Stream() if stage is not None else None):
                while not self.failed:
                    self.write(self.left.get_nowait(), stage)
        except queue.Empty:
            pass
        except BaseException as error:  # told by the thread that waits
            self.failed.append(error)

    def write(self, name, stage):
        raw = draw(self.model, name, self.tensors[name]).view(torch.uint8).flatten()
        at = self.base + self.entries[name]["data_offsets"][0]
        for part in raw.split(CHUNK):
            if stage is not None:
                stage[: len(part)].copy_(part, non_blocking=True)
                torch.cuda.current_stream().synchronize()
                part = stage[: len(part)]
            view = memoryview(part.numpy())
            while view:
                done = os.pwrite(self.file, view, at)
                view, at = view[done:], at + done


def check(path, model, tensors):
    """Compares header, length and some tensors of a file with what they should be."""
    entries, start = header(tensors)
    names = list(tensors)
    with open(path, "rb") as file:
        if file.read(len(start)) != start:
            raise SystemExit(f"{path}: the header is not what was written")
        for name in names[:2] + names[-2:]:
            file.seek(len(start) + entries[name]["data_offsets"][0])
            want = draw(model, name, tensors[name]).cpu().view(torch.uint8).flatten().numpy().tobytes()
            if file.read(len(want)) != want:
                raise SystemExit(f"{path}: {name} is not what was written")
    if path.stat().st_size != len(start) + 2 * sum(map(math.prod, tensors.values())):
        raise SystemExit(f"{path}: wrong length")


def make(model, args):
    start = time.perf_counter()
    folder = args.out / model
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / "model.safetensors", folder / "model.safetensors.part"
    tensors = shapes(MODELS[model])
    if path.exists():
        print(f"{model}: is there", flush=True)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(args.tokenizer / name, folder / name)
        (folder / "config.json").write_text(json.dumps(MODELS[model], indent=2))
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            Writer(file, model, tensors).run(args.threads)
            part.rename(path)
        finally:
            os.close(file)
            part.unlink(missing_ok=True)
        count = sum(map(math.prod, tensors.values()))
        print(f"{model}: {count:,} parameters in {time.perf_counter() - start:.1f} s", flush=True)
    if args.check:
        check(path, model, tensors)
        print(f"{model}: checked", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("names", nargs="+", choices=list(MODELS), metavar="NAME")
    parser.add_argument("--tokenizer", type=pathlib.Path, default=TOKENIZER)
    parser.add_argument("--threads", type=int, default=8 if DEVICE == "cuda" else os.cpu_count())
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for model in args.names:
        make(model, args)


if __name__ == "__main__":
    main()
