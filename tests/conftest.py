"""What the tests that cross distributions share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llamatelemetry
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.testing.emitted import EmittedSpan, spans_from_otlp_json

ROOT = Path(__file__).parent.parent


class Telemetry:
    """Telemetry files of one test: ``start`` writes them, the rest reads them back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, **settings: Any) -> None:
        """Calls ``init()`` with this folder."""
        llamatelemetry.init(telemetry_dir=self.folder, **settings)

    def lines(self) -> list[str]:
        """Every line written so far, of every signal."""
        assert llamatelemetry.flush()
        return [line for path in sorted(self.folder.iterdir()) for line in path.read_text().splitlines()]

    def spans(self) -> tuple[EmittedSpan, ...]:
        """Every span written so far."""
        return spans_from_otlp_json(self.lines())


@pytest.fixture(scope="session")
def root() -> Path:
    """Top folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def workspace() -> dict[str, Any]:
    """The root pyproject.toml, read."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def in_clean_process(tmp_path):
    """Runs Python source in a new interpreter, away from the repository; returns the JSON it prints."""

    def run(source: str) -> Any:
        environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        done = subprocess.run(
            [sys.executable, "-c", source],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def server() -> Iterator[LlamaServer]:
    """A real llama.cpp server that tests share: eight slots of 512 tokens, one thread."""
    with LlamaServer(demo_model(), slots=8, context_length=512, threads=1) as running:
        yield running


@pytest.fixture
def telemetry(tmp_path: Path) -> Iterator[Telemetry]:
    """Starts llamatelemetry on files in a new folder; ended after the test."""
    yield Telemetry(tmp_path / "telemetry")
    llamatelemetry.shutdown()


@pytest.fixture
def unused_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
