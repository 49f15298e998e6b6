"""Writes tests/fixtures/trl_fields.json: every field of TRL's configurations and its default, which docs/src/trl.md has to name.

    .venv/bin/python tests/parity/trl_fields.py

Needs trl 1.16 and transformers 5.24. TrainingArguments has the fields that the others inherit; of those, the others list only the ones with another default.
"""
import dataclasses
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import transformers
import trl
from transformers import TrainingArguments
from trl import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, RLOOConfig, SFTConfig
from trl.experimental.cpo import CPOConfig
from trl.experimental.orpo import ORPOConfig
from trl.experimental.tpo import TPOConfig

TARGET = Path(__file__).parents[1] / "fixtures" / "trl_fields.json"


def defaults(config):
    make = lambda field: field.default if field.default is not dataclasses.MISSING else field.default_factory()
    return {field.name: make(field) for field in dataclasses.fields(config) if field.init}


inherited = defaults(TrainingArguments)
found = {"versions": {"trl": trl.__version__, "transformers": transformers.__version__}, "TrainingArguments": inherited}
for config in (DPOConfig, KTOConfig, CPOConfig, ORPOConfig, TPOConfig, SFTConfig, RewardConfig, GRPOConfig, RLOOConfig):
    found[config.__name__] = {name: value for name, value in defaults(config).items() if name not in inherited or inherited[name] != value}
TARGET.write_text(json.dumps(found, indent=1, default=str) + "\n")
