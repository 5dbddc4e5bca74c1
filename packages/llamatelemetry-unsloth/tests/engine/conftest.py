"""unsloth on its CPU backend, in a home of its own and with commands on the path that tell of being run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
# Before unsloth is imported, which looks for folders in it.
os.environ["HOME"] = tempfile.mkdtemp(prefix="llamatelemetry-home-")
os.environ.pop("XDG_CACHE_HOME", None)
os.environ.pop("UNSLOTH_AUTO_INSTALL", None)

import pytest

from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

WATCHED = ("apt-get", "apt", "brew", "cmake", "git", "make", "pip", "sudo", "yum")


@pytest.fixture(scope="session", autouse=True)
def _home():
    yield
    shutil.rmtree(os.environ["HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> Path:
    """A file that names every command of those that install things, each time one is run."""
    folder = tmp_path_factory.mktemp("commands")
    told = folder / "told.txt"
    told.touch()
    for name in WATCHED:
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {told}\nexit 1\n')
        (folder / name).chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return told


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A small random Llama in BF16."""
    return write_small_checkpoint(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="session")
def lines(tmp_path_factory) -> Path:
    """A dataset of sixteen texts."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    texts = [f"{one} plus {two} is {one + two}." for one in range(4) for two in range(4)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
