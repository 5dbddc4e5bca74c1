"""What doctor says of torch and transformers: of this environment, and of installations made up on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.plugins import CheckState
from llamatelemetry.transformers import checks

COMMAND = "pip install 'llamatelemetry-transformers[torch]'"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts distributions that hold nothing but their version where Python looks first."""

    def install(torch: str | None = None, cuda: str | None = None, transformers: str | None = None) -> None:
        for name, version in (("torch", torch), ("transformers", transformers)):
            if version is None:
                continue
            info = tmp_path / f"{name}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('it was imported')\n")
        if torch is not None:
            line = f"cuda: Optional[str] = {cuda!r}\n"
            (tmp_path / "torch" / "version.py").write_text("from typing import Optional\n" + line)
        # What this environment has of its own is looked for nowhere.
        monkeypatch.setattr(sys, "path", [str(tmp_path), *(each for each in sys.path if "site-packages" not in each)])
        for name in ("torch", "transformers"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    return install


def found():
    return {check.name: check for check in checks.checks()}


def test_neither_is_needed_and_both_are_named_with_the_command_that_installs_them(installed):
    installed()
    for name, check in found().items():
        assert (check.state, check.fix) == (CheckState.OK, "")
        assert name in check.detail
        assert COMMAND in check.detail


def test_what_is_there_is_told_without_importing_it(installed):
    installed("2.13.0", "13.0", "5.23.0")
    assert found()["torch"].detail == "torch 2.13.0, built for CUDA 13.0"
    assert found()["transformers"].detail == "transformers 5.23.0"


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_torch_without_cuda_is_fine_where_there_is_no_gpu(installed, monkeypatch, has_gpu):
    # Whether there is one is the machine's affair.
    monkeypatch.setattr(checks, "_has_gpu", lambda: has_gpu)
    installed("2.13.0+cpu", None, "5.23.0")
    check = found()["torch"]
    assert check.detail.startswith("torch 2.13.0+cpu, built without CUDA")
    assert check.state is (CheckState.WARNING if has_gpu else CheckState.OK)
    assert bool(check.fix) is has_gpu


def test_what_is_too_old_is_an_error_with_the_command_that_helps(installed):
    installed("2.5.1", None, "4.57.0")
    for name, least in (("torch", "2.6"), ("transformers", "5.0")):
        check = found()[name]
        assert (check.state, check.fix) == (CheckState.ERROR, COMMAND)
        assert f"{least} or newer" in check.detail


def test_a_transformers_that_cannot_batch_is_a_warning(installed):
    installed("2.13.0", "13.0", "5.0.0")
    check = found()["transformers"]
    assert check.state is CheckState.WARNING
    assert "one request at a time" in check.detail
    assert check.fix == "pip install --upgrade transformers"


def test_a_torch_whose_version_file_is_odd_is_taken_for_one_without_cuda(installed, tmp_path):
    installed("2.13.0", None, "5.23.0")
    (tmp_path / "torch" / "version.py").write_text("cuda = (\n")
    assert checks.cuda_of_torch() is None


def test_doctor_imports_neither():
    code = (
        "import sys; from llamatelemetry.transformers.checks import checks; checks();"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
