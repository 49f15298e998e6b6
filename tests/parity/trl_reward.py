"""Twelve steps of TRL's `RewardTrainer` on a LoRA adapter with a scalar head, every step written down, and the rewards by the trained adapter through PEFT.

`trl/RUN/expected.json` names the `objective` section and the data. `init` is the adapter that the run begins with, as PEFT writes it.
"""
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback
from trl import RewardConfig, RewardTrainer

from corpus import training_pairs
from files import write_json, write_jsonl
from scores import save_adapter
from trl_runs import LORA, STEPS, TRAINING, RatesUsed

MODEL = "llama"
TRAINER = {**{key: value for key, value in TRAINING.items() if key != "beta"}, "max_grad_norm": 1.0}
# run → (data, settings of RewardConfig)
RUNS = {
    "reward": ("trl/train.jsonl", {}),
    "reward-margin": ("trl/margins.jsonl", dict(center_rewards_coefficient=0.05)),
}
FIGURES = ("loss", "grad_norm", "accuracy", "margin", "mean_reward", "min_reward", "max_reward")


def rows(data):
    pairs = training_pairs()
    if data == "trl/train.jsonl":
        return pairs
    # Ratings that differ by half points, some of them not at all or the wrong way round.
    return [dict(row, margin=(i * 7 % 9 - 2) / 2) for i, row in enumerate(pairs)]


def make_reward_runs(out):
    write_jsonl(out / "trl" / "margins.jsonl", rows("trl/margins.jsonl"))
    for name, run in RUNS.items():
        make_run(out, name, *run)


def make_run(out, name, data, settings):
    path, model_path, rates = out / "trl" / name, out / "models" / MODEL, RatesUsed()
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    torch.manual_seed(11)
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1, dtype=torch.float32, attn_implementation="eager")
    trainer = RewardTrainer(
        model=model, peft_config=LoraConfig(task_type="SEQ_CLS", bias="none", **LORA), callbacks=[rates], processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows(data)),
        args=RewardConfig(
            output_dir="unused", logging_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, train_sampling_strategy="sequential", dataloader_pin_memory=False, report_to="none",
            save_strategy="no", disable_tqdm=True, **TRAINER, **settings,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    save_adapter(trainer.model, path / "init", base=MODEL)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    steps = [dict({key: entry[key] for key in FIGURES}, learning_rate_used=rate) for entry, rate in zip(history, rates.rates, strict=True)]
    assert len(steps) == STEPS and steps[0]["loss"] != steps[-1]["loss"] and len({step["accuracy"] for step in steps}) > 1
    objective = dict(loss_type="reward", **settings)
    write_json(path / "expected.json", dict(
        model=MODEL, data=data, objective=objective, config=TRAINER, trainer="RewardTrainer", steps=steps, rewards=rewards(trainer.model.eval(), tokenizer, rows(data)[:6]),
    ))


def rewards(model, tokenizer, pairs):
    """[chosen, rejected] of each pair after the last step."""
    def reward(text):
        with torch.no_grad():
            return model(torch.tensor([tokenizer(text + tokenizer.eos_token)["input_ids"]])).logits.item()

    return [[reward(row["prompt"] + row[side]) for side in ("chosen", "rejected")] for row in pairs]
