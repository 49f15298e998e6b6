"""Token ids of every record as TRL's DPOTrainer makes them, and the texts its chat templates render."""
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.data_utils import extract_prompt
from trl.trainer.dpo_trainer import DataCollatorForPreference

from corpus import CHATS, IMPLICIT, PAIRS
from files import write_json, write_jsonl
from models import load_model

FLAVOURS = ["tokenizer", "tokenizer-nobos"]
TRUNCATIONS = [("keep_start", 32), ("keep_end", 32)]


def make_tokens(out):
    records = {
        "pairs.jsonl": [dict(prompt=p, chosen=c, rejected=r) for p, c, r in PAIRS],
        "implicit.jsonl": [dict(chosen=c, rejected=r) for c, r in IMPLICIT],
        "chat.jsonl": CHATS,
    }
    for file, rows in records.items():
        write_jsonl(out / file, rows)

    cases, rendered = [], {}
    for flavour in FLAVOURS:
        tokenizer = AutoTokenizer.from_pretrained(out / flavour)
        trainer = make_trainer(out, tokenizer, records["pairs.jsonl"])
        for file, rows in records.items():
            whole = [tokenize(trainer, tokenizer, row) for row in rows]
            if file == "pairs.jsonl":
                assert whole == [ids_of(row) for row in trainer.train_dataset]
            cases.append(dict(tokenizer=flavour, file=file, max_length=None, truncation_mode=None, records=whole))
        for mode, max_length in TRUNCATIONS:
            rows = [truncated(trainer, tokenizer, row, mode, max_length) for row in records["pairs.jsonl"]]
            cases.append(dict(tokenizer=flavour, file="pairs.jsonl", max_length=max_length, truncation_mode=mode, records=rows))
        rendered[flavour] = [render(tokenizer, row) for row in CHATS]
    assert rendered[FLAVOURS[0]] == rendered[FLAVOURS[1]]
    write_json(out / "tokens.json", cases)
    write_json(out / "chat_rendered.json", rendered[FLAVOURS[0]])
    return cases


def make_trainer(out, tokenizer, rows):
    """A real DPOTrainer over `rows`; the model is there because it must be."""
    return DPOTrainer(
        model=load_model(out / "models" / "llama"), args=config(max_length=None), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
    )


def config(**settings):
    return DPOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, **settings)


def ids_of(row):
    return {key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}


def tokenize(trainer, tokenizer, row):
    """One record at a time: in a data set of several, TRL looks at the first only to see of which kind all are."""
    return ids_of(trainer._prepare_dataset(Dataset.from_list([row]), tokenizer, config(max_length=None), "one")[0])


def truncated(trainer, tokenizer, row, mode, max_length):
    """What reaches the model: TRL cuts each sequence by itself, in the collator, after having dropped hopeless records."""
    prepared = trainer._prepare_dataset(Dataset.from_list([row]), tokenizer, config(max_length=max_length, truncation_mode=mode), "one")
    if len(prepared) == 0:
        return dict(dropped=True)
    batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id, max_length=max_length, truncation_mode=mode)([ids_of(prepared[0])])
    sides = {}
    for side, ids, attention, completion in zip(("chosen", "rejected"), batch["input_ids"], batch["attention_mask"], batch["completion_mask"]):
        keep = attention.bool()
        sides[side] = dict(input_ids=ids[keep].tolist(), completion_mask=completion[keep].tolist())
    return dict(dropped=False, **sides)


def render(tokenizer, row):
    row = row if "prompt" in row else extract_prompt(row)
    text = lambda messages, **more: tokenizer.apply_chat_template(messages, tokenize=False, **more)
    return dict(
        prompt_messages=len(row["prompt"]),
        prompt=text(row["prompt"], add_generation_prompt=True),
        prompt_chosen=text(row["prompt"] + row["chosen"]),
        prompt_rejected=text(row["prompt"] + row["rejected"]),
    )
