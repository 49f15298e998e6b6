"""Makes the parity fixtures with PyTorch, transformers, PEFT and TRL.

    python tests/parity/make_fixtures.py tests/fixtures [PART...]

Without PART everything is made anew, in the order of `PARTS`: a later part reads what earlier ones wrote. `models:NAME`, `scores:NAME` and `old-configs:NAME` make those of
one model, and leave the other files as they are.
"""
import importlib.metadata
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

# before the libraries read them; sets of strings are walked in a fixed order only with PYTHONHASHSEED
SETTINGS = dict(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1", PYTHONHASHSEED="0", OMP_NUM_THREADS="1",
    ATEN_CPU_CAPABILITY="avx2", PYTHONDONTWRITEBYTECODE="1",
)
if any(os.environ.get(key) != value for key, value in SETTINGS.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})

import datasets
import torch
import transformers

import bpe, compose, loss_cases, models, old_configs, on_policy_cases, optim_cases, scores, templates, tokens, trl_objectives, trl_reward, trl_runs
from files import write_json

PARTS = {
    "tokenizer": bpe.make_tokenizers,
    "models": models.make_models,
    "tokens": tokens.make_tokens,
    "templates": templates.make_templates,
    "scores": scores.make_scores,
    "old-configs": old_configs.make_old_configs,
    "compose": compose.make_compose,
    "optim": optim_cases.make_optim,
    "conservative": optim_cases.make_conservative,
    "losses": loss_cases.make_losses,
    "modifiers": loss_cases.make_modifiers,
    "on-policy": on_policy_cases.make_on_policy,
    "trl": trl_runs.make_trl_runs,
    "objectives": trl_objectives.make_objective_runs,
    "reward": trl_reward.make_reward_runs,
}
PACKAGES = ["torch", "transformers", "tokenizers", "peft", "trl", "accelerate", "datasets", "safetensors", "jinja2", "numpy"]


def main():
    chosen = [part.partition(":") for part in sys.argv[2:] or PARTS]
    known = all(part in PARTS and (not name or part in ("models", "scores", "old-configs") and name in models.SEEDS) for part, _, name in chosen)
    if len(sys.argv) < 2 or not known:
        sys.exit(f"{__doc__}\nPARTs: {' '.join(PARTS)}")
    out = Path(sys.argv[1]).resolve()
    quiet()
    if not sys.argv[2:]:
        for path in ("tokenizer", "tokenizer-nobos", "models", "trl"):
            shutil.rmtree(out / path, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # trainers like to leave things behind
        for part, _, name in chosen:
            print(part, name, flush=True)
            PARTS[part](out, *[[name]] if name else [])
    versions = {package: importlib.metadata.version(package).split("+")[0] for package in PACKAGES}
    write_json(out / "versions.json", dict(python=sys.version.split()[0], **versions))


def quiet():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    datasets.disable_caching()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    main()
