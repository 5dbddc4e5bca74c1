"""What llama.cpp's own quantizer made of the same models, byte for byte."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.quantization import quantize
from llamatelemetry.quantization.testing import write_small_importance

HERE = Path(__file__).parent.parent


def script():
    spec = importlib.util.spec_from_file_location("golden", HERE / "golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOLDEN = json.loads((HERE / "golden.json").read_text())
SCRIPT = script()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    models = SCRIPT.models(folder) | {"smollm2": demo_model()}
    write_small_importance(folder / "imatrix.gguf", models["small"])
    return models


@pytest.mark.parametrize("model", GOLDEN["sources"])
def test_the_models_are_those_that_the_hashes_are_of(sources, model):
    assert SCRIPT.sha256(sources[model]) == GOLDEN["sources"][model]


@pytest.mark.parametrize("case", SCRIPT.cases(), ids=lambda case: "-".join(map(str, case)))
def test_a_quantized_file_is_the_one_that_llama_cpp_writes(sources, tmp_path, monkeypatch, case):
    model, file_type, measured = case
    # The name of an importance matrix is noted in the file as it was given.
    monkeypatch.chdir(sources["small"].parent)
    target = tmp_path / "out.gguf"

    made = quantize(
        sources[model],
        target,
        file_type=file_type,
        imatrix="imatrix.gguf" if measured else None,
        threads=3,
        allow_requantize=model == "smollm2",
    )

    assert SCRIPT.sha256(target) == GOLDEN["quantized"][f"{model}-{file_type}-{measured}"]
    assert made.size_bytes == target.stat().st_size


def test_every_case_has_its_hash():
    assert list(GOLDEN["quantized"]) == ["-".join(map(str, case)) for case in SCRIPT.cases()]
