from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from llamatelemetry.errors import ConfigurationError, MissingDependencyError
from llamatelemetry.llama.runtime import INSTALL_COMMAND, binary_version, resolve_runtime


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def binary(tmp_path):
    return script(tmp_path / "llama-server", "exit 0")


def test_a_url_comes_before_everything(binary):
    runtime = resolve_runtime("http://127.0.0.1:1/", {"LLAMA_SERVER_BIN": str(binary)})
    assert (runtime.kind, runtime.location) == ("url", "http://127.0.0.1:1")


def test_the_variable_comes_before_the_path(binary, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    script(other / "llama-server", "exit 0")
    runtime = resolve_runtime(environ={"LLAMA_SERVER_BIN": str(binary), "PATH": str(other)})
    assert (runtime.kind, runtime.location, runtime.origin) == ("binary", str(binary), "LLAMA_SERVER_BIN")


def test_the_path_comes_before_the_embedded_runtime(binary):
    runtime = resolve_runtime(environ={"PATH": str(binary.parent)})
    assert (runtime.kind, runtime.location, runtime.origin) == ("binary", str(binary), "PATH")


def test_the_embedded_runtime_comes_last_and_knows_its_version():
    runtime = resolve_runtime(environ={"PATH": ""})
    assert runtime.kind == "embedded"
    assert runtime.version == metadata.version("xllamacpp")
    assert Path(runtime.location).is_dir()


def test_finding_the_embedded_runtime_does_not_import_it():
    code = (
        "import sys; from llamatelemetry.llama.runtime import embedded_runtime; embedded_runtime();"
        "sys.exit('xllamacpp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["missing", "folder", "not executable"])
def test_a_variable_that_names_no_executable_is_an_error_and_not_skipped(tmp_path, kind):
    path = tmp_path / "llama-server"
    if kind == "folder":
        path.mkdir()
    elif kind == "not executable":
        path.touch(0o644)
    with pytest.raises(ConfigurationError, match="LLAMA_SERVER_BIN") as caught:
        resolve_runtime(environ={"LLAMA_SERVER_BIN": str(path)})
    assert caught.value.value == str(path)


def test_without_any_runtime_the_error_names_the_one_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingDependencyError) as caught:
        resolve_runtime(environ={"PATH": ""})
    assert caught.value.command == INSTALL_COMMAND == "pip install 'llamatelemetry-llamacpp[embedded]'"
    assert INSTALL_COMMAND in str(caught.value)


def test_a_binary_is_asked_for_its_version(tmp_path):
    path = script(tmp_path / "llama-server", "echo 'version: 6789 (1a2b3c4)' >&2; echo 'built with gcc'")
    assert binary_version(str(path)) == "6789 (1a2b3c4)"


@pytest.mark.parametrize("text", ["echo hello", "exit 3"])
def test_a_binary_that_does_not_tell_its_version_has_none(tmp_path, text):
    assert binary_version(str(script(tmp_path / "llama-server", text))) is None


def test_a_binary_that_is_not_there_has_no_version(tmp_path):
    assert binary_version(str(tmp_path / "gone")) is None
