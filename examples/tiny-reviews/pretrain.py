"""The tokenizer and the base model: byte-level BPE and a small Llama, both trained on reviews of the grammar."""

import json
import math
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import grammar

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY = 1000
TOKENIZER_REVIEWS = 20_000
MAX_POSITIONS = 256
BATCH_REVIEWS = 32
LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
SEED = 20230529


def corpus(count, without):
    """The text of `count` reviews, in order of seed, whose opening is not in `without`."""
    seed = 0
    while count:
        made = grammar.review(seed)
        seed += 1
        if made.opening not in without:
            count -= 1
            yield made.text


def train_tokenizer(texts, directory):
    """Writes tokenizer.json and tokenizer_config.json; `<s>` is added in front, `</s>` never."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "model_max_length": MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
        },
    )
    return AutoTokenizer.from_pretrained(directory)


def new_model(tokenizer):
    """An untrained model of about 0.9 million parameters."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.05,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).float()


def batches(texts, tokenizer):
    """Batches of one review a row, rows of similar length together, as (ids, targets); targets ignore the padding."""
    rows = [ids + [tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    made = []
    span = BATCH_REVIEWS * 100
    for start in range(0, len(rows), span):
        chunk = sorted(rows[start : start + span], key=len)
        made += [chunk[i : i + BATCH_REVIEWS] for i in range(0, len(chunk), BATCH_REVIEWS)]
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(SEED)).tolist()
    for index in order:
        longest = max(len(row) for row in made[index])
        ids = torch.full((len(made[index]), longest), tokenizer.pad_token_id)
        for i, row in enumerate(made[index]):
            ids[i, : len(row)] = torch.tensor(row)
        targets = ids[:, 1:].masked_fill(ids[:, 1:] == tokenizer.pad_token_id, -100)
        yield ids[:, :-1], targets


def pretrain(model, tokenizer, texts):
    """One pass over the reviews with AdamW and a cosine schedule; returns the mean loss of the last steps."""
    steps = math.ceil(len(texts) / BATCH_REVIEWS)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    losses, tokens, began = [], 0, time.time()
    for step, (ids, targets) in enumerate(batches(texts, tokenizer)):
        logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens += int((targets >= 0).sum())
        if step % 100 == 99:
            recent = sum(losses[-50:]) / 50
            print(f"step {step + 1}/{steps} loss {recent:.4f} {tokens / (time.time() - began):.0f} tokens/s", flush=True)
    return sum(losses[-50:]) / len(losses[-50:])


def save_model(model, tokenizer, directory):
    """Writes bf16 weights and the config.json of a Hub model directory."""
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    write_json(
        directory / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "hidden_act": config.hidden_act,
            "max_position_embeddings": config.max_position_embeddings,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": config.initializer_range,
            "tie_word_embeddings": True,
            "use_cache": True,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "torch_dtype": "bfloat16",
        },
    )
    write_json(
        directory / "generation_config.json",
        {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "do_sample": True,
            "temperature": 0.7,
        },
    )


def write_json(path, value):
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
