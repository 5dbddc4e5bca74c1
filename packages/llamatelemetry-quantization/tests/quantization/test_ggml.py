from __future__ import annotations

import importlib.util

import gguf
import numpy as np
import pytest

from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.quantization import FILE_TYPES
from llamatelemetry.quantization.ggml import load_ggml


def test_numbers_and_sizes_of_types_are_those_of_the_gguf_package():
    ours = load_ggml().types

    for kind, (block, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        # Q8_1 is in no file; the package has it as it was long ago.
        if kind.name in ours and kind.name != "Q8_1":
            found = ours[kind.name]
            assert (found.number, found.block, found.block_bytes) == (kind.value, block, block_bytes)
    assert len(set(ours) & {kind.name for kind in gguf.GGML_QUANT_SIZES}) > 30


def test_every_mix_is_of_types_that_there_are():
    assert {kind.base for kind in FILE_TYPES.values()} <= set(load_ggml().types)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"])
def test_what_is_quantized_is_widened_as_the_gguf_package_does_it(name):
    ggml = load_ggml()
    kind = ggml.types[name]
    values = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
    stored = np.zeros(kind.size_of(512), np.uint8)
    widened = np.zeros((2, 256), np.float32)

    written = ggml.quantize(kind, values.ctypes.data, stored.ctypes.data, rows=2, row=256, importance=None)
    ggml.widen(kind, stored.ctypes.data, widened.ctypes.data, 512)

    assert written == stored.size
    assert ggml.validate(kind, stored.ctypes.data, stored.size)
    theirs = gguf.dequantize(stored.reshape(2, -1), gguf.GGMLQuantizationType[name])
    np.testing.assert_allclose(widened, theirs.reshape(2, 256), atol=1e-6)
    np.testing.assert_allclose(widened, values, atol=0.15)


def test_numbers_that_are_not_finite_are_seen():
    ggml = load_ggml()
    values = np.ones(256, np.float32)
    assert ggml.validate(ggml.types["F32"], values.ctypes.data, values.nbytes)
    values[77] = np.inf
    assert not ggml.validate(ggml.types["F32"], values.ctypes.data, values.nbytes)


def test_whole_numbers_are_not_made_float32():
    ggml = load_ggml()
    assert not ggml.can_widen(ggml.types["I32"])
    with pytest.raises(ValueError, match="I32 cannot be made float32"):
        ggml.widen(ggml.types["I32"], 0, 0, 0)


@pytest.fixture
def forgotten():
    load_ggml.cache_clear()
    yield
    load_ggml.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_libggml_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(MissingDependencyError, match=r"Run: pip install .*libggml-python"):
        load_ggml()


@pytest.mark.usefixtures("forgotten")
def test_a_library_of_that_name_that_is_none_is_a_typed_error(monkeypatch, tmp_path):
    package = tmp_path / "libggml"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "lib" / "libggml-base.so").write_bytes(b"nothing of use")
    spec = importlib.util.spec_from_file_location(
        "libggml", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)

    with pytest.raises(MissingDependencyError, match="a libggml-python that loads"):
        load_ggml()
