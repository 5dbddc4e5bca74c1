"""What the tests of several rooms share: distributions planted on disk, and processes that meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

GOOD = """
from llamatelemetry.plugins import hookimpl

@hookimpl
def register_backends(registry):
    registry.add("{name}", "{module}_targets:Backend")
"""
TARGETS = """
class Backend:
    pass
"""


class Shelf:
    """A folder of distributions, as installers write them, that child processes find on their path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plant(
        self,
        name: str,
        code: str | None = None,
        *,
        targets: str = TARGETS,
        requires: tuple[str, ...] = (),
        version: str = "1.0",
        distribution: str | None = None,
    ) -> None:
        """Installs a plugin ``name`` whose module has ``code``, and a module of targets beside it."""
        distribution = distribution or f"{name}-plugin"
        module = distribution.replace("-", "_")
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(metadata) + "\n")
        (info / "entry_points.txt").write_text(f"[llamatelemetry]\n{name} = {module}\n")
        source = GOOD.format(name=name, module=module) if code is None else dedent(code)
        (self.folder / f"{module}.py").write_text(source)
        (self.folder / f"{module}_targets.py").write_text(dedent(targets))

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs Python with the shelf on its path and no settings but ``env``."""
        with self.start(*command, env=env) as process:
            stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """As :meth:`run`, without waiting."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("LLAMATELEMETRY_", "OTEL_"))
        }
        # What is deployed on this machine is nobody's problem here.
        ours = {"PYTHONPATH": str(self.folder), "COLUMNS": "100", "XDG_STATE_HOME": str(self.folder / "state")}
        return subprocess.Popen(
            [sys.executable, *command],
            env={**inherited, **ours, **(env or {})},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def llamatelemetry(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs the command line."""
        return self.run("-m", "llamatelemetry.cli", *arguments, env=env)

    def plugins(self, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What ``llamatelemetry plugins --json`` says, its reports by name."""
        done = self.llamatelemetry("plugins", "--json", env=env)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        said["reports"] = {report["name"]: report for report in said["plugins"]}
        said["backends"] = {item["name"]: item for item in said["backends"]}
        said["commands"] = {item["name"]: item for item in said["commands"]}
        return said

    def ask(self, code: str, env: Mapping[str, str] | None = None) -> Any:
        """Runs code that has ``plugins`` loaded and leaves what it found in ``answer``."""
        head = "import json, sys\nfrom llamatelemetry.plugins import load_plugins\nplugins = load_plugins()\n"
        done = self.run("-c", head + dedent(code) + "\nprint(json.dumps(answer))", env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return Shelf(folder)
