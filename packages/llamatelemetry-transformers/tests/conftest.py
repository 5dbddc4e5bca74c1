"""Checkpoints written by hand: the format is a length, some JSON, and the numbers, which stay a hole in the file.

What needs torch has a folder of its own, which is passed over as a whole where torch is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.distributed.shape import ModelShape
from llamatelemetry.transformers.shape import read_shape

collect_ignore = [] if importlib.util.find_spec("torch") else ["torch"]

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Names to type and sizes."""

WIDTHS = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1, "I8": 1, "I32": 4, "F8_E4M3": 1}

SMALL: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


class CheckpointFolder:
    """A folder that becomes a checkpoint, file by file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.small = dict(SMALL)

    def config(self, **values: Any) -> Path:
        """Writes a ``config.json``: that of a small Llama, unless a value says otherwise; None leaves it out."""
        values = {key: value for key, value in {**SMALL, **values}.items() if value is not None}
        return self.config_of(values)

    def config_of(self, content: Any) -> Path:
        """Writes a ``config.json`` with nothing but what is given."""
        path = self.path / "config.json"
        path.write_text(json.dumps(content))
        return path

    def weights(self, tensors: Tensors, name: str = "model.safetensors") -> Path:
        """Writes a safetensors file."""
        path = self.path / name
        header = json.dumps(self.header(tensors)).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + self.bytes_of(tensors))
        return path

    def shards(self, *parts: Tensors) -> Path:
        """Writes several files, and their index."""
        places: dict[str, str] = {}
        for number, tensors in enumerate(parts, 1):
            name = f"model-{number:05}-of-{len(parts):05}.safetensors"
            self.weights(tensors, name)
            places.update(dict.fromkeys(tensors, name))
        return self.index(places)

    def index(self, places: Any) -> Path:
        """Writes an index."""
        path = self.path / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return path

    def shape(self) -> ModelShape:
        """What is read of it."""
        shape = read_shape(self.path)
        assert shape is not None
        return shape

    @staticmethod
    def header(tensors: Tensors) -> dict[str, Any]:
        """A safetensors header with tensors one after the other."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, (dtype, shape) in tensors.items():
            end = at + math.prod(shape) * WIDTHS[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        return header

    @staticmethod
    def bytes_of(tensors: Tensors, names: Iterable[str] | None = None) -> int:
        """Bytes of the numbers of some tensors, or of all."""
        wanted = tensors if names is None else names
        return sum(math.prod(tensors[name][1]) * WIDTHS[tensors[name][0]] for name in wanted)

    @staticmethod
    def llama(dtype: str = "BF16", stem: str = "model.", **values: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The tensors of a model built like Llama, as transformers names them; sizes as for :meth:`config`."""
        config = {**SMALL, **values}
        hidden, wide, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        head = config.get("head_dim") or hidden // config["num_attention_heads"]
        queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
        layer = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, wide),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.v_proj": (keys, hidden),
        }
        shapes = {f"{stem}embed_tokens": (vocabulary, hidden), f"{stem}norm": (hidden,)}
        for number in range(config["num_hidden_layers"]):
            shapes |= {f"{stem}layers.{number}.{name}": shape for name, shape in layer.items()}
        if not config["tie_word_embeddings"]:
            shapes["lm_head"] = (vocabulary, hidden)
        return {f"{name}.weight": (dtype, shape) for name, shape in shapes.items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> CheckpointFolder:
    """An empty folder for a checkpoint."""
    folder = tmp_path / "small-model"
    folder.mkdir()
    return CheckpointFolder(folder)


@pytest.fixture(scope="session")
def checkpoint_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], CheckpointFolder]:
    """Makes an empty folder at each call, for tests that draw many checkpoints."""
    return lambda: CheckpointFolder(tmp_path_factory.mktemp("checkpoint"))
