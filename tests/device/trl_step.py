"""Times training steps of the peer: TRL's DPOTrainer with PEFT's LoRA, in bf16, on one GPU. One JSON line a case.

    trl_step.py --model DIR --data FILE.jsonl --batch N [--steps 8] [--skip 3] [--options gc,liger]
    trl_step.py --serve     # reads such arguments from standard input, a case a line, and answers each

The first line tells the versions. The work is that of run.sh: rank 16 and alpha 32 on all linear layers, no dropout,
beta 0.1, AdamW at a constant 5e-5, pairs in their order. gc: gradient checkpointing; liger: Liger's kernels.
peak_gb is torch's max_memory_allocated; packed tokens count a prompt once. Needs torch, transformers, trl, peft and
datasets; without a GPU it runs on the processor, to try it out.
"""

import argparse
import gc
import json
import os
import shlex
import statistics
import sys
import tempfile
import time

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
os.environ.update(dict.fromkeys((*OFFLINE, "TQDM_DISABLE"), "1"))
os.environ.update(USE_JAX="0", USE_TF="0", TOKENIZERS_PARALLELISM="false")

import accelerate
import datasets
import peft
import torch
import transformers
import trl

CUDA = torch.cuda.is_available()
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--data", metavar="FILE.jsonl")
    parser.add_argument("--batch", type=int, metavar="N")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--skip", type=int, default=3)
    parser.add_argument("--options", default="")
    args = parser.parse_args(words)
    if not args.serve and not (args.model and args.data and args.batch):
        parser.error("--model, --data and --batch are needed")
    if args.skip >= args.steps:
        parser.error("--steps must be more than --skip")
    return args


def clock():
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


class Marks(transformers.TrainerCallback):
    """The time at the start and at the end of every step."""

    def __init__(self):
        self.times = []

    def on_train_begin(self, *_, **__):
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        self.times.append(clock())

    def on_step_end(self, *_, **__):
        self.times.append(clock())


class Trainer(trl.DPOTrainer):
    """Keeps the losses."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses = [*getattr(self, "losses", []), (loss[0] if isinstance(loss, tuple) else loss).detach()]
        return loss


def trainer(args, marks, folder):
    options = set(filter(None, args.options.split(",")))
    # The fast tokenizer of the file itself: the one that AutoTokenizer makes for Qwen 2 splits texts in its own way.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.bfloat16, attn_implementation="sdpa", device_map={"": "cuda:0" if CUDA else "cpu"}
    )
    config = trl.DPOConfig(
        output_dir=folder, per_device_train_batch_size=args.batch, max_steps=args.steps, max_length=1024,
        learning_rate=5e-5, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, beta=0.1,
        loss_type=["sigmoid"], bf16=True, gradient_checkpointing="gc" in options, use_liger_kernel="liger" in options,
        train_sampling_strategy="sequential", seed=42, report_to="none", save_strategy="no", logging_steps=1,
        disable_tqdm=True, use_cpu=not CUDA,
    )
    lora = peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=LAYERS
    )
    with open(args.data) as file:
        rows = [json.loads(line) for line in file]
    made = Trainer(
        model=model, args=config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=lora, callbacks=[marks],
    )
    made.remove_callback(transformers.trainer_callback.PrinterCallback)
    return made


def packed_tokens(pairs, args):
    """Tokens of the steps that count, each prompt once."""
    lengths = [len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in pairs]
    return sum(lengths[i % len(lengths)] for i in range(args.skip * args.batch, args.steps * args.batch))


def run(args):
    start, marks = clock(), Marks()
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(args, marks, folder)
        loaded = clock()
        made.train()
    took = [end - begin for begin, end in zip(marks.times, marks.times[1:])][args.skip:]
    return {
        "options": args.options, "batch": args.batch, "seconds": [round(step, 4) for step in took],
        "median": round(statistics.median(took), 4), "best": round(min(took), 4),
        "packed_tokens_per_second": round(packed_tokens(made.train_dataset, args) / sum(took)),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if CUDA else None,
        "load_seconds": round(loaded - start, 1), "wall_seconds": round(clock() - start, 1),
        "losses": [round(float(loss), 5) for loss in made.losses[:4]],
    }


def answer(words):
    """What a case gives, or why it gives nothing."""
    try:
        return run(arguments(words))
    except Exception as error:  # out of memory, say; the next case may fit
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    except SystemExit:
        return {"error": "wrong arguments"}


def main():
    args = arguments(sys.argv[1:])
    # Whatever the libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    modules = (torch, transformers, trl, peft, datasets, accelerate)
    versions = {module.__name__: module.__version__ for module in modules}
    print(json.dumps({"device": torch.cuda.get_device_name(0) if CUDA else "cpu", **versions}), file=answers)
    lines = map(shlex.split, sys.stdin) if args.serve else [sys.argv[1:]]
    failed = False
    for words in lines:
        found = answer(words)
        failed |= "error" in found
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
        print(json.dumps(found), file=answers)
    sys.exit(1 if failed and not args.serve else 0)


if __name__ == "__main__":
    main()
