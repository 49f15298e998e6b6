#!/usr/bin/env python3
"""The peer of step_against_trl.py: TRL's DPOTrainer with PEFT's LoRA on the CPU. Prints one JSON object on the last line.

    python trl_cpu.py --model DIRECTORY --data PAIRS.jsonl [--dtype bf16] [--steps 4] [--batch 4] [--threads 2] [--onednn]

The settings that step_against_trl.py gives dpo-lora: rank 16, alpha 32, all linear layers, beta 0.1, AdamW at 5e-5, no
shuffling, no dropout. bf16 means bf16 weights with autocast, TRL's fastest way there; gradient checkpointing is off.
"""
import argparse
import json
import os
import resource
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
for name, default in (("steps", 4), ("batch", 4), ("threads", len(os.sched_getaffinity(0)))):
    parser.add_argument("--" + name, type=int, default=default)
parser.add_argument("--onednn", action="store_true", help="let oneDNN compute f32 products")
args = parser.parse_args()
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1",
               "OMP_NUM_THREADS": str(args.threads), "CUDA_VISIBLE_DEVICES": ""}

import datasets
import peft
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

torch.set_num_threads(args.threads)
if args.onednn:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
datasets.disable_progress_bars()
transformers.utils.logging.set_verbosity_error()


class Clock(TrainerCallback):
    """The time at the start and after each step."""

    def __init__(self):
        self.marks = []

    def on_train_begin(self, *_, **__):
        self.marks.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        self.marks.append(time.perf_counter())


def trainer(place, clock):
    kind = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=kind, attn_implementation="sdpa")
    config = trl.DPOConfig(
        output_dir=place, per_device_train_batch_size=args.batch, max_steps=args.steps, learning_rate=5e-5,
        lr_scheduler_type="constant", beta=0.1, bf16=args.dtype == "bf16", use_cpu=True, report_to="none",
        save_strategy="no", logging_steps=1, disable_tqdm=True, train_sampling_strategy="sequential",
        dataloader_pin_memory=False, gradient_checkpointing=False, max_length=1024)
    lora = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    pairs = datasets.Dataset.from_list([json.loads(line) for line in open(args.data)])
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    found = trl.DPOTrainer(model=model, args=config, train_dataset=pairs, processing_class=tokenizer, peft_config=lora,
                           callbacks=[clock])
    found.remove_callback(transformers.trainer_callback.PrinterCallback)
    return found


with tempfile.TemporaryDirectory() as place:
    clock = Clock()
    run = trainer(place, clock)
    run.train()
    print(json.dumps({
        "step_s": [round(b - a, 4) for a, b in zip(clock.marks, clock.marks[1:])],
        "losses": [row["loss"] for row in run.state.log_history if "loss" in row],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "versions": {kit.__name__: kit.__version__ for kit in (torch, transformers, trl, peft)},
    }))
