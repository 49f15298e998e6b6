"""Twelve steps of TRL's own trainers with other losses than DPO's, from the adapter that `trl/llama` begins with.

`trl/RUN/expected.json` names the `objective` section and the data; no adapters are kept: the gradient norm of every step says where the run is.
"""
import random

from datasets import Dataset
from peft import PeftModel
from transformers import AutoTokenizer, PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.tpo import TPOConfig, TPOTrainer

from corpus import training_pairs
from files import write_json, write_jsonl
from models import load_model
from trl_runs import STEPS, TRAINING, RatesUsed

MODEL = "llama"
TRAINER = {key: value for key, value in TRAINING.items() if key != "beta"}
PAIRS = "trl/train.jsonl"
# run → (trainer, configuration, data, the objective in our keys, the same in TRL's where they differ)
RUNS = {
    "ipo": (DPOTrainer, DPOConfig, PAIRS, dict(loss_type="ipo", beta=0.3), dict(loss_type=["ipo"], beta=0.3)),
    "apo-zero": (DPOTrainer, DPOConfig, PAIRS, dict(loss_type="apo_zero", beta=0.3), dict(loss_type=["apo_zero"], beta=0.3)),
    "sigmoid-sft": (DPOTrainer, DPOConfig, PAIRS, dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5], beta=0.3), None),
    "aot": (DPOTrainer, DPOConfig, PAIRS, dict(loss_type="aot", beta=0.3), dict(loss_type=["aot"], beta=0.3)),
    "cpo": (CPOTrainer, CPOConfig, PAIRS, dict(loss_type="cpo", beta=0.3), dict(loss_type="sigmoid", beta=0.3)),
    "simpo": (CPOTrainer, CPOConfig, PAIRS, dict(loss_type="simpo", beta=2.0, simpo_gamma=1.0, cpo_alpha=0.0), None),
    "cpo-simpo": (CPOTrainer, CPOConfig, PAIRS, dict(loss_type="simpo", beta=2.0), None),
    "orpo": (ORPOTrainer, ORPOConfig, PAIRS, dict(loss_type="orpo", beta=0.3), dict(beta=0.3)),
    "tpo": (TPOTrainer, TPOConfig, "trl/triples.jsonl", dict(loss_type="tpo", beta=0.3), dict(loss_type="sigmoid", beta=0.3)),
    "tpo-l": (TPOTrainer, TPOConfig, "trl/triples.jsonl", dict(loss_type="tpo_l", beta=2.0, tpo_l_gamma=0.7, tpo_alpha=0.4), dict(loss_type="tpo-l", beta=2.0, tpo_l_gamma=0.7, tpo_alpha=0.4)),
    "tpo-alone": (TPOTrainer, TPOConfig, "trl/triples.jsonl", dict(loss_type="tpo_hinge", beta=0.3, tpo_alpha=0.0), dict(loss_type="hinge", beta=0.3, tpo_alpha=0.0)),
    "kto": (KTOTrainer, KTOConfig, "trl/judged.jsonl", dict(loss_type="kto", beta=0.3, desirable_weight=1.2, undesirable_weight=0.8), None),
    "kto-lengths": (KTOTrainer, KTOConfig, "trl/lengths.jsonl", dict(loss_type="kto", beta=0.3), None),
    "apo-zero-unpaired": (KTOTrainer, KTOConfig, "trl/judged.jsonl", dict(loss_type="apo_zero_unpaired", beta=0.3), None),
    "sft": (SFTTrainer, SFTConfig, "trl/texts.jsonl", dict(loss_type="sft"), dict(loss_type="nll")),
    "sft-text": (SFTTrainer, SFTConfig, "trl/plain.jsonl", dict(loss_type="sft"), dict(loss_type="nll")),
    "sft-messages": (SFTTrainer, SFTConfig, "trl/messages.jsonl", dict(loss_type="sft"), dict(loss_type="nll")),
}
FIGURES = ("loss", "grad_norm", "nll_loss", "kl", "log_odds_chosen", "log_odds_ratio")


def rows(data):
    pairs, rng = training_pairs(), random.Random(3)
    if data == PAIRS:
        return pairs
    if data == "trl/texts.jsonl":
        return [dict(prompt=row["prompt"], completion=row["chosen"]) for row in pairs]
    if data == "trl/plain.jsonl":
        return [dict(text=row["prompt"] + row["chosen"]) for row in pairs]
    if data == "trl/messages.jsonl":
        return [dict(messages=[dict(role="user", content=row["prompt"]), dict(role="assistant", content=row["chosen"].strip())]) for row in pairs]
    if data == "trl/triples.jsonl":
        # The gold answer is the chosen one of another record.
        return [dict(row, reference=other["chosen"]) for row, other in zip(pairs, pairs[1:] + pairs[:1])]
    if data == "trl/lengths.jsonl":
        # Long prompts have short answers and short prompts long ones: a prompt with the answer before it is longer than any record, and now and then than `max_length`.
        long = [dict(prompt=row["prompt"][-180:], completion=row["rejected"][-10:], label=False) for row in sorted(pairs, key=lambda row: -len(row["prompt"]))[:24]]
        short = [dict(prompt=row["prompt"][-30:], completion=row["chosen"] + other["chosen"] + other["rejected"], label=True) for row, other in zip(pairs, pairs[1:])][:24]
        return [row for both in zip(long, short) for row in both]
    judged = []
    for row in pairs:
        label = rng.random() < 0.6
        judged.append(dict(prompt=row["prompt"], completion=row["chosen" if label else "rejected"], label=label))
    return judged


def make_objective_runs(out):
    for data in sorted({run[2] for run in RUNS.values()} - {PAIRS}):
        write_jsonl(out / data, rows(data))
    for name, run in RUNS.items():
        make_run(out, name, *run)


def make_run(out, name, trainer_class, config_class, data, objective, settings):
    batch = dict(per_device_train_batch_size=4, gradient_accumulation_steps=1) if trainer_class is KTOTrainer else {}
    training = {**TRAINER, "max_grad_norm": 1.0, **batch}
    model_path, rates = out / "models" / MODEL, RatesUsed()
    model = PeftModel.from_pretrained(load_model(model_path), out / "trl" / "llama" / "init", is_trainable=True)
    trainer = trainer_class(
        model=model, callbacks=[rates], processing_class=AutoTokenizer.from_pretrained(model_path), train_dataset=Dataset.from_list(rows(data)),
        args=config_class(
            output_dir="unused", logging_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, train_sampling_strategy="sequential", dataloader_pin_memory=False, report_to="none",
            save_strategy="no", disable_tqdm=True, **training, **(settings or objective),
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    kept = lambda entry: {key: value for key, value in entry.items() if key in FIGURES or key.split("/")[0] in ("rewards", "logps")}
    steps = [dict(kept(entry), learning_rate_used=rate) for entry, rate in zip(history, rates.rates, strict=True)]
    assert len(steps) == STEPS and steps[0]["loss"] != steps[-1]["loss"]
    write_json(out / "trl" / name / "expected.json", dict(model=MODEL, init="trl/llama/init", data=data, objective=objective, config=training, trainer=trainer_class.__name__, steps=steps))
