"""Short DPO trainings by TRL, every step written down: what a trainer of ours has to reproduce number by number."""
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from corpus import training_pairs
from files import write_json, write_jsonl
from models import load_model
from optim_cases import conservative
from scores import save_adapter

STEPS = 12
TRAINING = dict(
    max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=5e-3, lr_scheduler_type="linear", warmup_steps=3,
    weight_decay=0.1, optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, beta=0.3, max_length=128, seed=42,
)
LORA = dict(r=4, lora_alpha=6, lora_dropout=0.0, target_modules="all-linear")
# name → (model, adapter to start from, further settings); max_grad_norm so that some steps are clipped and some not
RUNS = {
    "llama": ("llama", None, dict(loss_type=["sigmoid"], max_grad_norm=1.0)),
    "qwen2": ("qwen2", None, dict(max_grad_norm=1.5, **conservative(0.1))),
    "llama-init": ("llama", "plain", dict(loss_type=["sigmoid"], max_grad_norm=1.0)),
}
METRICS = ["loss", "grad_norm", "learning_rate", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"]


class Trainer(DPOTrainer):
    """DPOTrainer that also keeps the loss of each micro-batch."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.micro_losses = getattr(self, "micro_losses", []) + [loss.item()]
        return loss


class RatesUsed(TrainerCallback):
    """The learning rate at the moment of each optimizer step, from the optimizer itself."""

    def __init__(self):
        self.rates = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.rates.append(optimizer.param_groups[0]["lr"])


def make_trl_runs(out):
    write_jsonl(out / "trl" / "train.jsonl", training_pairs())
    for name, run in RUNS.items():
        make_run(out, name, *run)


def make_run(out, name, model_name, start, more):
    path, model_path = out / "trl" / name, out / "models" / model_name
    base = load_model(model_path)
    if start is None:
        model, peft_config = base, LoraConfig(task_type="CAUSAL_LM", bias="none", **LORA)
    else:
        model, peft_config = PeftModel.from_pretrained(base, model_path / "adapters" / start, is_trainable=True), None
    rates, settings = RatesUsed(), dict(TRAINING, **more)
    trainer = Trainer(
        model=model, peft_config=peft_config, callbacks=[rates], processing_class=AutoTokenizer.from_pretrained(model_path),
        train_dataset=Dataset.from_list(training_pairs()),
        args=DPOConfig(
            output_dir="unused", logging_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, train_sampling_strategy="sequential",
            dataloader_pin_memory=False, report_to="none", save_strategy="no", disable_tqdm=True, **settings,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    save_adapter(trainer.model, path / "init", base=model_name)
    frozen = {key: weight.clone() for key, weight in trainer.model.named_parameters() if ".default." not in key}
    trainer.train()
    save_adapter(trainer.model, path / "final", base=model_name)
    for key, weight in trainer.model.named_parameters():
        assert key not in frozen or torch.equal(weight, frozen[key]), f"{key} is frozen and has moved"
    history = [entry for entry in trainer.state.log_history if "rewards/chosen" in entry]
    micro, per_step = trainer.micro_losses, TRAINING["gradient_accumulation_steps"]
    steps = [
        dict({key: entry[key] for key in METRICS}, learning_rate_used=rate, micro_losses=micro[i * per_step : (i + 1) * per_step])
        for i, (entry, rate) in enumerate(zip(history, rates.rates, strict=True))
    ]
    check(name, steps, settings, path, start)
    write_json(path / "expected.json", dict(
        model=model_name, data="trl/train.jsonl", shuffle=False, dtype="float32", config=settings, lora=LORA if start is None else None,
        reference="base" if start is None else "frozen copy of init", label_smoothing=settings.get("label_smoothing", 0.0), steps=steps,
    ))


def check(name, steps, settings, path, start):
    assert len(steps) == STEPS
    for step in steps:
        assert abs(sum(step["micro_losses"]) / len(step["micro_losses"]) - step["loss"]) < 1e-6
        assert step["learning_rate"] == step["learning_rate_used"]
    assert steps[0]["rewards/chosen"] == steps[0]["rewards/rejected"] == steps[0]["rewards/accuracies"] == 0.0
    assert max(abs(step["rewards/margins"]) for step in steps) > 0.3
    clipped = [step["grad_norm"] > settings["max_grad_norm"] for step in steps]
    assert 3 <= sum(clipped) <= STEPS - 3, (name, clipped)
    init, final = (load_file(path / part / "adapter_model.safetensors") for part in ("init", "final"))
    assert init.keys() == final.keys()
    for key in init:
        assert bool(init[key].any()) == (start is not None or "lora_A" in key), key
        assert not torch.equal(init[key], final[key]), key
