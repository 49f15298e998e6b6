"""Makes tests/fixtures/gguf/rotary/: one tiny model in GGUF files that differ in their rotary keys alone, and llama.cpp's own log-probs of each.

    python tests/parity/gguf_rotary.py tests/fixtures

Keys mean what llama.cpp makes of them: which it reads for an architecture and which it leaves alone is in no document. gguf-py writes the files, llama.cpp computes.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from gguf_adapter import PROMPTS, gguf, llama_cpp_logps

from files import write_json

HIDDEN, HEADS, WIDTH, MLP, VOCAB, ORIGINAL = 32, 2, 16, 48, 320, 32
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": ORIGINAL}
CASES = {
    "plain": ("llama", {}),
    "linear": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}),
    "linear-by-default": ("llama", {"rope.scaling.factor": 2.5}),
    "linear-by-its-old-name": ("llama", {"rope.scale_linear": 2.5}),
    "none": ("llama", {"rope.scaling.type": "none", "rope.scaling.factor": 2.5}),
    "yarn": ("llama", YARN),
    "yarn-attention": ("llama", YARN | {"rope.scaling.attn_factor": 0.75}),
    "yarn-left-alone": ("qwen3", YARN | {"rope.scaling.yarn_beta_fast": 4.0, "rope.scaling.yarn_beta_slow": 2.0, "rope.scaling.yarn_attn_factor": 0.5}),
}


def write(path, architecture, keys):
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(WIDTH)
    writer.add_value_length(WIDTH)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB)
    for key, value in keys.items():
        kind = {str: gguf.GGUFValueType.STRING, float: gguf.GGUFValueType.FLOAT32, int: gguf.GGUFValueType.UINT32}[type(value)]
        writer.add_key_value(f"{architecture}.{key}", value, kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    words = ["<s>", "</s>"] + [f"w{i}" for i in range(2, VOCAB)]
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (VOCAB - 2))
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    matrix = lambda rows, columns, size=1.0: (random.standard_normal((rows, columns)) * size / columns**0.5).astype(np.float16)
    tensors = {"token_embd": matrix(VOCAB, HIDDEN, 4), "output": matrix(VOCAB, HIDDEN, 3)}
    # queries and keys large, so that where attention looks depends on positions
    tensors |= {f"blk.0.attn_{name}": matrix(HIDDEN, HIDDEN, size) for name, size in dict(q=2.5, k=2.5, v=1.5, output=1.5).items()}
    tensors |= {"blk.0.ffn_gate": matrix(MLP, HIDDEN), "blk.0.ffn_up": matrix(MLP, HIDDEN), "blk.0.ffn_down": matrix(HIDDEN, MLP)}
    norms = ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]
    tensors |= {name: (1 + 0.1 * random.standard_normal(HIDDEN)).astype(np.float32) for name in norms}
    if architecture == "qwen3":
        tensors |= {f"blk.0.attn_{name}_norm": (1 + 0.1 * random.standard_normal(WIDTH)).astype(np.float32) for name in "qk"}
    for name, data in tensors.items():
        writer.add_tensor(f"{name}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    place = Path(sys.argv[1]) / "gguf" / "rotary"
    place.mkdir(parents=True, exist_ok=True)
    PROMPTS[:] = [[0, *((7 * i * i + 31 * i + 5) % 300 + 10 for i in range(n))] for n in (3, 60)]
    expected = {}
    for name, (architecture, keys) in CASES.items():
        write(place / f"{name}.gguf", architecture, keys)
        logps = llama_cpp_logps(place / f"{name}.gguf", None, VOCAB)
        assert not logps.isnan().any()
        expected[name] = dict(prompts=PROMPTS, next_token_logps=[[round(x, 6) for x in row] for row in logps.tolist()])
        apart = lambda other: (torch.tensor(expected[other]["next_token_logps"]) - logps).abs().max().item()
        print(name, {other: f"{apart(other):.2e}" for other in expected}, flush=True)
    write_json(place / "expected.json", expected)


if __name__ == "__main__":
    main()
