"""Real SmolLM2 and what quantizing makes of it, and a text of few windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.quantization import quantize

WORDS = "The ferry left at ten past six, when the water in the harbour was still the colour of slate. "


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in F16."""
    path = tmp_path_factory.mktemp("smollm") / "f16.gguf"
    quantize(demo_model(), path, file_type="F16", allow_requantize=True)
    return path


@pytest.fixture(scope="session")
def quantized(parent: Path):
    """Makes a type of it, once."""

    def make(file_type: str) -> Path:
        path = parent.with_name(f"{file_type}.gguf")
        if not path.exists():
            quantize(parent, path, file_type=file_type, threads=1)
        return path

    return make


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A text for models that know bytes only: four windows of 64."""
    path = tmp_path / "words.txt"
    path.write_text(WORDS * 3)
    return path
