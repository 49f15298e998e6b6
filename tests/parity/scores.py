"""PEFT adapters for every model, and what each model says with and without them: log-probs, logits, greedy tokens."""
import json
import math
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer
from trl.trainer.utils import add_fused_lm_head

import families
from files import read_jsonl, write_json
from logps import forget, logits, score
from models import SEEDS, load_model

R, ALPHA = 4, 6
GENERATED, MIN_LEAD = 24, 5e-4

# alpha is never the rank, and the ranks differ where a pattern can make them differ
CASES = {
    "plain": dict(r=R, lora_alpha=ALPHA, target_modules="all-linear"),
    "rslora": dict(r=R, lora_alpha=ALPHA, target_modules="all-linear", use_rslora=True),
    # the first matching key counts: layer 0's q_proj has rank 3, layer 2's has rank 2
    "patterns": dict(
        r=R, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"], layers_to_transform=[0, 2],
        rank_pattern={r"layers\.0\.self_attn\.q_proj": 3, "q_proj": 2, r"layers\.\d+\.mlp\.(up|down)_proj": 5},
        alpha_pattern={"q_proj": 7, r"self_attn\.v_proj": 3},
    ),
    # a string is one regular expression for the whole module name
    "subset": dict(r=R, lora_alpha=ALPHA, target_modules=r".*\.(0|2)\.(self_attn\.(q|o)_proj|mlp\.gate_proj)"),
}


def cases_of(name):
    return list(CASES) if name == "llama" else ["plain", "some"] if name in families.MODELS else ["plain"]


def case_of(name, case):
    """The arguments of PEFT's LoraConfig."""
    wrapper = name in families.MODELS and families.MODELS[name][0] in families.WRAPPERS
    if case == "some":
        some = families.SOME.get(name, ["q_proj", "v_proj"])
        modules = rf".*language_model\..*\.({'|'.join(some)})" if wrapper else some
        return dict(r=R + 1, lora_alpha=ALPHA + 1, target_modules=modules, use_rslora=True)
    return dict(CASES[case], target_modules=families.TEXT_LINEARS) if wrapper and case == "plain" else CASES[case]


def make_scores(out, only=()):
    """Of all models, or of these."""
    pairs = read_jsonl(out / "pairs.jsonl")
    tokens = json.loads((out / "tokens.json").read_text())[0]
    assert (tokens["tokenizer"], tokens["file"], tokens["max_length"]) == ("tokenizer", "pairs.jsonl", None)
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    prompts = [tokenizer(pair["prompt"])["input_ids"] for pair in pairs[:3]]
    for name in only or [name for name in SEEDS if name not in families.LATER]:
        path = out / "models" / name
        models = {"none": load_model(path)}
        for case in cases_of(name):
            write_adapter(path, case, SEEDS[name])
            models[case] = PeftModel.from_pretrained(load_model(path), path / "adapters" / case).eval()
        expected = dict(adapters={}, logits={}, greedy={})
        for case, model in models.items():
            expected["adapters"][case] = [score(model, record) for record in tokens["records"]]
            first = tokens["records"][0]
            expected["logits"][case] = logits(model, first["prompt_ids"] + first["chosen_ids"])[-1].tolist()
            if case in ("none", "plain"):
                expected["greedy"][case] = [greedy(model, prompt) for prompt in prompts if within(model, prompt)]
        check(name, expected, models["none"], tokens["records"])
        write_json(path / "expected.json", expected)


def write_adapter(path, case, seed):
    """Saved by PEFT, with B drawn instead of zero; only what would differ from machine to machine is put right."""
    torch.manual_seed(1000 + seed)
    model = get_peft_model(load_model(path), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **case_of(path.name, case)))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0.0, 0.2)
    save_adapter(model, path / "adapters" / case, base=path.name)


def save_adapter(model, path, base):
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path, selected_adapters=["default"])
    (path / "README.md").unlink(missing_ok=True)
    file = path / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = base  # PEFT writes the path the base was loaded from
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT writes a set, in any order
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def within(model, prompt):
    """Beyond its length a dynamic rotation turns what is cached as it was, and a whole sequence otherwise."""
    config = model.config.get_text_config()
    dynamic = (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "dynamic"
    return not dynamic or len(prompt) + GENERATED <= config.max_position_embeddings


def greedy(model, prompt):
    """Always the likeliest token, past the end token too; cut short where the runner-up is so near that rounding could win."""
    ids = list(prompt)
    while len(ids) < len(prompt) + GENERATED:
        best = logits(model, ids)[-1].topk(2)
        if best.values[0] - best.values[1] < MIN_LEAD:
            break
        ids.append(best.indices[0].item())
    assert len(ids) > len(prompt), "the first token already is a near tie: take another seed"
    with torch.no_grad():
        cached = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=len(ids) - len(prompt), eos_token_id=None, pad_token_id=None,
        )[0].tolist()
    assert cached == ids, (cached, ids)
    return dict(prompt_ids=prompt, tokens=ids[len(prompt) :])


def check(name, expected, base, records):
    """The adapters do something, each something else; and TRL's fused LM head agrees with ours."""
    none = expected["adapters"]["none"]
    seen = {}
    for case, rows in expected["adapters"].items():
        assert all(math.isfinite(row["chosen_logp"]) for row in rows)
        moved = max(abs(a["chosen_logp"] - b["chosen_logp"]) / a["chosen_tokens"] for a, b in zip(rows, none))
        assert case == "none" or moved > 0.02, (name, case, moved)
        seen[tuple(row["chosen_logp"] for row in rows)] = case
    assert len(seen) == len(expected["adapters"])
    add_fused_lm_head(base)
    for row, record in zip(none, records):
        ids = torch.tensor([record["prompt_ids"] + record["chosen_ids"]])
        labels = ids.clone()
        labels[:, : len(record["prompt_ids"])] = -100
        forget(base)
        with torch.no_grad():
            trl = base(input_ids=ids, labels=labels, fused_lm_head=True).log_probs.sum().item()
        assert abs(trl - row["chosen_logp"]) < 2e-4, (name, trl, row)
