"""What needs torch, and what needs unsloth, has a folder of its own, passed over where that is not installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

NEEDS = {"torch": "peft", "engine": "unsloth"}
collect_ignore = [folder for folder, package in NEEDS.items() if importlib.util.find_spec(package) is None]


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[Iterable[Any]], Path]:
    """Writes lines of a dataset: texts as they are, anything else as JSON."""

    def write(lines: Iterable[str | Mapping[str, Any]]) -> Path:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return write
