"""llama.cpp's quantizer beside ours, and models of every shape that its rules ask for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamatelemetry.quantization.testing import weights, write_small_importance, write_small_model

HERE = Path(__file__).parent
collect_ignore = [] if importlib.util.find_spec("torch") else ["torch"]


@pytest.fixture(scope="session")
def upstream() -> Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]:
    """Has llama.cpp quantize files; gives what upstream.py says of each."""

    def run(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        given = json.dumps(
            [{key: str(value) if isinstance(value, Path) else value for key, value in job.items()} for job in jobs]
        )
        done = subprocess.run(
            [sys.executable, str(HERE / "upstream.py")],
            input=given,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found: list[dict[str, Any]] = json.loads(done.stdout)["jobs"]
        return found

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in F16."""
    return write_small_model(tmp_path_factory.mktemp("small") / "small.gguf")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One block of a small random model in F32, tied, so quantized in a moment."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_small_model(path, blocks=1, tied=True, dtype="F32")


@pytest.fixture(scope="session")
def tiny_importance(tiny: Path) -> Path:
    """An importance matrix of it."""
    return write_small_importance(tiny.with_name("imatrix.gguf"), tiny)


def write_narrow(
    path: Path, architecture: str, block: dict[str, tuple[int, ...]], *, blocks: int, tied: bool = False, **keys: int
) -> Path:
    """Writes a model with two rows in each matrix: all that rules on names and numbers of tensors ask for."""
    writer = gguf.GGUFWriter(path, architecture)
    usual = {"context_length": 64, "embedding_length": 256, "feed_forward_length": 512, "attention.head_count": 4}
    for key, value in {**usual, "block_count": blocks, **keys}.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{architecture}.attention.layer_norm_epsilon", 1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>"])
    writer.add_token_scores([0.0, 0.0])
    writer.add_token_types([2, 3])
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (2, 256), "output_norm.weight": (256,)}
    if not tied:
        shapes["output.weight"] = (2, 256)
    for number in range(blocks):
        shapes |= {f"blk.{number}.{name}.weight": shape for name, shape in block.items()}
    raw = np.random.PCG64(5)
    for name, shape in shapes.items():
        writer.add_tensor(name, weights(raw, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def narrow() -> Callable[..., Path]:
    """Writes such a model."""
    return write_narrow
