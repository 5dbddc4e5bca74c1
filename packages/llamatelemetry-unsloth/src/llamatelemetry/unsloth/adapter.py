"""What a LoRA adapter is, told from its configuration and the header of its weights, without torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.untrusted.json_values import read_object
from llamatelemetry.untrusted.safetensors_header import StoredTensor, read_safetensors

__all__ = ["CONFIG", "PREFIX", "WEIGHTS", "Adapter", "read_adapter"]

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PICKLE: Final = "adapter_model.bin"
_A: Final = (".lora_A.weight", ".lora_embedding_A")
_B: Final = (".lora_B.weight", ".lora_embedding_B")
PREFIX: Final = "base_model.model."
"""What PEFT puts before the names of a model's layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter as PEFT and unsloth save it.

    Attributes:
        path: Its folder.
        base_model: What it was trained on, as its configuration names it; None where it does not.
        rank: Columns of A and rows of B.
        alpha: What it learned counts ``scale`` times, which is alpha / rank, or alpha / √rank with ``rslora``.
        targets: Last parts of the names of the layers that have one.
        layers: Names of those layers, in the order of the file.
        parameters: Numbers that it has.
        target_parameters: Of each target, numbers that it has; beside them, of what was trained as a whole.
        dtypes: How they are stored.
        size_bytes: Bytes of the weights.
        dropout: Share of its input that each layer left out in training.
        rslora: Scaled by the root of the rank.
        dora: Weights are decomposed into direction and magnitude.
        task: What it was trained for, such as ``CAUSAL_LM``; None where its configuration does not say.
        trained_whole: Layers that it has whole, such as an embedding that was trained beside.
        ranks: Ranks that are not ``rank``, by the pattern of their layers.
        peft_version: The PEFT that wrote it; None where its configuration does not say.
    """

    path: Path
    base_model: str | None
    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: tuple[str, ...]
    parameters: int
    target_parameters: Mapping[str, int]
    dtypes: tuple[str, ...]
    size_bytes: int
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    task: str | None = None
    trained_whole: tuple[str, ...] = ()
    ranks: Mapping[str, int]
    peft_version: str | None = None

    @property
    def scale(self) -> float:
        """How often what it learned counts, where a layer has no rank of its own."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def read_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """What an adapter's files say of it.

    Args:
        folder: Has ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ModelFileError: There is none, it is of another kind, or it cannot be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ModelFileError(path, f"is no folder: an adapter is one, with {CONFIG} and {WEIGHTS}")
    config = _Config(path / CONFIG)
    kind = config.text("peft_type")
    if kind != "LORA":
        raise ModelFileError(config.path, f"peft_type is {kind!r}: only LORA is known here")
    if not (path / WEIGHTS).exists() and (path / _PICKLE).exists():
        raise ModelFileError(path / _PICKLE, f"can run code when it is loaded: save the adapter as {WEIGHTS}")
    tensors = read_safetensors(path / WEIGHTS)
    layers = _layers(path / WEIGHTS, tensors)
    if not layers:
        raise ModelFileError(path / WEIGHTS, "has no LoRA weights in it")
    counted: Counter[str] = Counter()
    for tensor in tensors:
        counted[_target(tensor.name)] += tensor.elements
    return Adapter(
        path=path,
        base_model=config.text("base_model_name_or_path"),
        rank=config.whole("r"),
        alpha=config.number("lora_alpha"),
        targets=tuple(sorted({name.rpartition(".")[2] for name in layers})),
        layers=layers,
        parameters=counted.total(),
        target_parameters=dict(sorted(counted.items())),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors})),
        size_bytes=sum(tensor.size_bytes for tensor in tensors),
        dropout=config.number("lora_dropout", 0.0),
        rslora=config.flag("use_rslora"),
        dora=config.flag("use_dora"),
        task=config.text("task_type"),
        trained_whole=config.names("modules_to_save"),
        ranks=config.ranks("rank_pattern"),
        peft_version=config.text("peft_version"),
    )


def _layers(path: Path, tensors: Sequence[StoredTensor]) -> tuple[str, ...]:
    """Names of the layers that have an A and a B which fit each other."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    found = []
    for name, shape in shapes.items():
        for first, second in zip(_A, _B, strict=True):
            if not name.endswith(first):
                continue
            stem = name.removesuffix(first)
            other = shapes.get(stem + second, ())
            if len(shape) != 2 or len(other) != 2 or shape[0] != other[1]:
                raise ModelFileError(path, f"is damaged: A and B of {stem!r} have the shapes {shape} and {other}")
            found.append(stem.removeprefix(PREFIX))
    return tuple(found)


def _target(name: str) -> str:
    """The last part of the name of the layer that a tensor belongs to."""
    stem = name.partition(".lora_")[0]
    return stem.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]


class _Config:
    """An adapter's configuration, each value held to its type."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = read_object(path)

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "no text")
        return value

    def whole(self, name: str) -> int:
        value = self._values.get(name)
        if type(value) is not int or not 1 <= value <= 2**20:
            raise self._wrong(name, "no whole number from 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._values.get(name, default)
        # Of a whole number of a thousand digits there is no float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
            raise self._wrong(name, "no number")
        return value

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if value not in (None, True, False):
            raise self._wrong(name, "neither true nor false")
        return bool(value)

    def names(self, name: str) -> tuple[str, ...]:
        value = self._values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._wrong(name, "no list of names")
        return tuple(value)

    def ranks(self, name: str) -> dict[str, int]:
        value = self._values.get(name) or {}
        if not isinstance(value, dict) or not all(type(each) is int and each > 0 for each in value.values()):
            raise self._wrong(name, "no table of ranks")
        return value

    def _wrong(self, name: str, what: str) -> ModelFileError:
        shown: Any = self._values.get(name)
        return ModelFileError(self.path, f"{name} is {repr(shown)[:80]}, which is {what}")
