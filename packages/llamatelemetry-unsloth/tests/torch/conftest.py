"""Small random models that learn in a moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint
from llamatelemetry.unsloth import LoraSettings, TrainingSettings, finetune

torch.set_num_threads(1)

LINES = [f"{one} plus {two} is {one + two}." for one in range(4) for two in range(4)]


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A small random Llama in BF16."""
    return write_small_checkpoint(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="session")
def lines(tmp_path_factory) -> Path:
    """A dataset of sixteen texts."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in LINES))
    return path


@pytest.fixture(scope="session")
def learn(base, lines) -> Callable[..., Path]:
    """Trains an adapter on them for twelve steps; gives its folder."""

    def run(folder: Path, *, load_in_4bit: bool = False, **changed: Any) -> Path:
        told = {"steps": 12, "learning_rate": 2e-2, "batch_size": 4, "sequence_length": 48, "seed": 7} | changed
        lora = LoraSettings(rank=4, alpha=8)
        training = TrainingSettings(**told)
        return finetune(base, lines, folder, engine="peft", lora=lora, training=training, load_in_4bit=load_in_4bit)

    return run


@pytest.fixture(scope="session")
def trained(learn, tmp_path_factory) -> Path:
    """Such an adapter."""
    return learn(tmp_path_factory.mktemp("trained") / "lora")
