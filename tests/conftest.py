"""What the tests that cross distributions share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


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
