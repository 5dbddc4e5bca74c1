"""What holds for every test of every distribution."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and noisy: how long an example takes says nothing about the code.
_shared = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# One commit has one verdict. Examples nobody tried yet: pytest --hypothesis-profile=explore.
settings.register_profile("gate", _shared, derandomize=True)
settings.register_profile("explore", _shared, print_blob=True)
settings.load_profile("gate")

# A script's shell has its background jobs ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _children() -> list[str]:
    """Model of every llama.cpp that is started as a child process from now on; Python itself tells of each."""
    found: list[str] = []

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and "llamatelemetry.quantization.evaluation.llama_child" in arguments[1]:
            found.append(Path(json.loads(arguments[1][-1])["model"]).name)

    sys.addaudithook(look)
    return found


@pytest.fixture
def children(_children: list[str]) -> list[str]:
    """Names of the models that llama.cpp was started with in this test."""
    _children.clear()
    return _children
