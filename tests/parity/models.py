"""Tiny random models, one per architecture. Each differs from the defaults where a reader could go wrong by assuming them."""
import json
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.pytorch_utils import Conv1D

import families
from bpe import BOS_ID, EOS_ID, PAD_ID, VOCAB_SIZE

COMMON = dict(vocab_size=VOCAB_SIZE, bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID)
# hidden 32, 4 heads, 2 key/value heads; families with other names for these are written out below
SHAPE = dict(hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, **COMMON)


def rope(theta, **more):
    return dict(rope_type="default", rope_theta=theta, **more)


LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

# name → (model_type, config)
MODELS = {
    # head_dim 12 is not hidden / heads = 8
    "llama": ("llama", dict(SHAPE, head_dim=12, rms_norm_eps=1e-5, rope_parameters=rope(5000.0), tie_word_embeddings=False)),
    # wavelengths on all three sides of the llama3 limits (8 and 32 positions)
    "llama3": ("llama", dict(SHAPE, head_dim=16, rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True)),
    "mistral": ("mistral", dict(SHAPE, rope_parameters=rope(10000.0), sliding_window=8, tie_word_embeddings=False)),
    "qwen2": ("qwen2", dict(SHAPE, rope_parameters=rope(20000.0), use_sliding_window=False, tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(SHAPE, head_dim=16, rope_parameters=rope(20000.0), use_sliding_window=False, tie_word_embeddings=True)),
    # both soft-caps low enough to matter; attention scaled by query_pre_attn_scalar and not by head_dim
    "gemma2": ("gemma2", dict(SHAPE, head_dim=16, query_pre_attn_scalar=24, sliding_window=8, attn_logit_softcapping=2.0, final_logit_softcapping=4.0,
                              rope_parameters=rope(10000.0), layer_types=["sliding_attention", "full_attention", "sliding_attention"], tie_word_embeddings=True)),
    "gemma3": ("gemma3_text", dict(SHAPE, head_dim=16, query_pre_attn_scalar=24, sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                   rope_parameters=dict(full_attention=rope(100000.0), sliding_attention=rope(1000.0)), tie_word_embeddings=True)),
    "phi3": ("phi3", dict(SHAPE, rope_parameters=rope(10000.0), original_max_position_embeddings=256, sliding_window=12, tie_word_embeddings=False)),
    "gpt2": ("gpt2", dict(n_embd=32, n_head=4, n_layer=3, n_inner=56, n_positions=256, tie_word_embeddings=True, **COMMON)),
    # rotary on 4 of 16 dimensions of a head
    "gpt_neox": ("gpt_neox", dict(hidden_size=48, num_attention_heads=3, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=256,
                                  use_parallel_residual=True, rope_parameters=rope(10000.0, partial_rotary_factor=0.25), tie_word_embeddings=False, **COMMON)),
    # rotary on 8 of 16, in interleaved pairs; the head has a bias
    "gptj": ("gptj", dict(n_embd=32, n_head=2, n_layer=2, n_inner=64, n_positions=256, rotary_dim=8, tie_word_embeddings=False, **COMMON)),
    # norms after the sub-layers; q and k normalised over all heads at once
    "olmo2": ("olmo2", dict(SHAPE, rope_parameters=rope(10000.0), tie_word_embeddings=False)),
    "smollm3": ("smollm3", dict(SHAPE, rope_parameters=rope(10000.0), no_rope_layers=[1, 0, 1], tie_word_embeddings=True)),
    "granite": ("granite", dict(SHAPE, rope_parameters=rope(10000.0), embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=1.5, tie_word_embeddings=True)),
    "stablelm": ("stablelm", dict(SHAPE, hidden_size=48, num_attention_heads=3, num_key_value_heads=1, num_hidden_layers=2, use_qkv_bias=True,
                                  rope_parameters=rope(10000.0, partial_rotary_factor=0.25), tie_word_embeddings=False)),
    # one key/value head, as the 2B model; head_dim is not hidden / heads
    "gemma": ("gemma", dict(SHAPE, head_dim=12, num_key_value_heads=1, rope_parameters=rope(10000.0))),
}

# config.json as hubs hold it from before transformers 5: rope_theta and rope_scaling at the top
# name → what else such a file says, or (...) does not say. Gemma's official files say gelu, and mean its tanh form
OLD_STYLE = {"llama": {}, "qwen2": {}, "gemma": dict(hidden_act="gelu", tie_word_embeddings=...)}
# name → (source of the weights, dtype, shard size)
COPIES = {"llama-sharded": ("llama", torch.bfloat16, "20KB"), "llama-f16": ("llama", torch.float16, "1GB")}
# Each keeps its place here for ever: a model's numbers are drawn from it, and a new one must not change the others'.
SEEDS = {name: seed for seed, name in enumerate([*(name for name in MODELS if name != "gemma"), *COPIES, "gemma", *families.MODELS])}
MODELS |= families.MODELS


def load_model(path):
    """The model in float32, with the attention written out (Gemma 2's soft-cap exists nowhere else)."""
    return auto_class(json.loads((path / "config.json").read_text())["model_type"]).from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def auto_class(model_type):
    return AutoModelForImageTextToText if model_type in families.WRAPPERS else AutoModelForCausalLM


def randomise(model, seed):
    """Matrices of std 1/√fan_in (logits then have std near 1), biases of std 0.1, norms about 20 % off neutral."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config.get_text_config()
    is_gemma = config.model_type.startswith("gemma")  # its norms multiply by (1 + weight), its embeddings are scaled by √hidden
    adds_one = is_gemma or config.model_type == "nemotron"
    multiplier = config.hidden_size**0.5 if is_gemma else getattr(config, "embedding_multiplier", 1.0)
    embedding = model.get_input_embeddings().weight
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.1 * noise
        elif weight.dim() == 1:
            # the last norm makes good for small tied embeddings
            scale = multiplier if name in ("model.norm.weight", "model.language_model.norm.weight") else 1.0
            value = scale * (1 + 0.2 * noise) - (1 if adds_one else 0)
        elif weight is embedding and model.config.tie_word_embeddings:
            value = noise / config.hidden_size**0.5 / multiplier
        elif weight is embedding or name.endswith("wpe.weight"):
            value = 0.6 * noise  # loud enough to be heard over the blocks
        else:
            is_conv1d = isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D)  # GPT-2 stores [in, out]
            value = noise / weight.shape[0 if is_conv1d else 1] ** 0.5
        weight.data.copy_(value)


def make_models(out, only=()):
    """All of them, or these."""
    wanted = lambda names: {name: made for name, made in names.items() if (name in only if only else name not in families.LATER)}
    for name, (model_type, fields) in wanted(MODELS).items():
        path = out / "models" / name
        model = auto_class(model_type).from_config(AutoConfig.for_model(model_type, **fields), attn_implementation="eager").eval()
        randomise(model, 100 + SEEDS[name])
        model.save_pretrained(path)
        if name in OLD_STYLE:
            write_old_style_config(path, model)
        if name in families.NAMES:
            rename_tensors(path, families.NAMES[name], model)
        add_tokenizer(out, path)
    for name, (source, dtype, shard) in wanted(COPIES).items():
        path = out / "models" / name
        model = load_model(out / "models" / source).to(dtype)
        model.config.dtype = dtype
        model.save_pretrained(path, max_shard_size=shard)
        add_tokenizer(out, path)
    assert len(list((out / "models" / "llama-sharded").glob("*.safetensors"))) >= 2


def write_old_style_config(path, model):
    config = json.loads((path / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters == {"rope_type": "default"} else parameters
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    config = {key: value for key, value in (config | dict(OLD_STYLE[path.name], layer_types=...)).items() if value is not ...}
    (path / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    again = load_model(path)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits), f"{path.name}: the two styles of config.json disagree"


def rename_tensors(path, names, model):
    """Tensors under other names that transformers reads too; the model stays the same."""
    renamed = {}
    for name, weight in load_file(path / "model.safetensors").items():
        begin = next((begin for begin in names if name.startswith(begin)), "")
        renamed[names.get(begin, "") + name.removeprefix(begin)] = weight
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    again = load_model(path).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())


def add_tokenizer(out, path):
    (path / "generation_config.json").unlink(missing_ok=True)
    for file in (out / "tokenizer").iterdir():
        shutil.copy(file, path / file.name)
