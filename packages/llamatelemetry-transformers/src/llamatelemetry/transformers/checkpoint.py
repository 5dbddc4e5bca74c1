"""A checkpoint folder as Hugging Face lays it out: its configuration, and what its weight files hold.

Only headers are read, a few kilobytes to megabytes of files that may have hundreds of gigabytes. A
folder that somebody downloaded is not to be trusted: sizes are limited before anything is
allocated, and an index may name nothing but files beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.untrusted.json_values import read_json
from llamatelemetry.untrusted.safetensors_header import StoredTensor, read_safetensors

CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_SUFFIX: Final = ".safetensors"
_BESIDE: Final = re.compile(r"[\w.=+@-]{1,200}\.safetensors", re.ASCII)
"""Names of files in the same folder: no separator, so none leads out of it."""

# The largest models have 140,000 tensors, and 13 MB of index.
_MOST_INDEX_BYTES: Final = 2**24
_MOST_TENSORS: Final = 2**18
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is in a checkpoint folder.

    Attributes:
        folder: The folder.
        config: What ``config.json`` holds, unchecked but for being a JSON object.
        tensors: Its tensors; None where it has no weights in safetensors files.
        weights_path: The file that says which they are; None without any.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...] | None
    weights_path: Path | None

    @property
    def config_path(self) -> Path:
        """Its ``config.json``."""
        return self.folder / CONFIG

    @property
    def name(self) -> str:
        """The folder's name; for a folder in a Hugging Face cache, that of the repository."""
        folder = Path(os.path.abspath(self.folder))  # noqa: PTH100 - resolving would follow a link away from its name
        cache = folder.parent.parent.name
        if folder.parent.name == "snapshots" and cache.startswith("models--"):
            return cache.removeprefix("models--").replace("--", "/")
        return folder.name


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Reads a checkpoint folder, given itself or by its ``config.json``; None for anything else.

    Raises:
        ModelFileError: A file is unreadable, damaged, larger than any such file, or missing though
            another names it.
    """
    config_path = path / CONFIG if path.name != CONFIG else path
    if not os.path.isfile(config_path):  # noqa: PTH113 - pathlib's raises for paths that it cannot look at
        return None
    config = read_json(config_path)
    # Many programs keep a config.json; a model's says what it is a configuration of.
    if not isinstance(config, dict) or not {"model_type", "architectures"} & config.keys():
        return None
    folder = config_path.parent
    tensors, weights_path = _read_weights(folder)
    return Checkpoint(folder=folder, config=config, tensors=tensors, weights_path=weights_path)


def _read_weights(folder: Path) -> tuple[tuple[StoredTensor, ...] | None, Path | None]:
    """The tensors, and the file that names them. One file is preferred to an index, as transformers does."""
    weights, index = folder / _WEIGHTS, folder / _INDEX
    # A link that leads nowhere is a missing file, and no folder without weights.
    if os.path.lexists(weights):
        return read_safetensors(weights), weights
    if os.path.lexists(index):
        return _read_shards(index), index
    parts = sorted(part.name for part in folder.glob("model-*-of-*.safetensors"))
    if parts:
        raise ModelFileError(index, f"does not exist, and {_list(parts)} cannot be put together without it")
    return None, None


def _read_shards(index: Path) -> tuple[StoredTensor, ...]:
    places = _read_index(index)
    names = sorted(set(places.values()))
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise ModelFileError(index, f"names {len(missing)} of {len(names)} files that are not there: {_list(missing)}")
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        shard = index.parent / name
        for tensor in read_safetensors(shard):
            if places.get(tensor.name, name) != name:
                raise ModelFileError(shard, f"holds tensor {tensor.name!r}, which {index.name} places elsewhere")
            tensors[tensor.name] = tensor
        if len(tensors) > _MOST_TENSORS:
            raise ModelFileError(index, f"names files with more than {_MOST_TENSORS} tensors")
    lost = places.keys() - tensors.keys()
    if lost:
        example = min(lost)
        raise ModelFileError(index, f"places tensor {example!r} in {places[example]}, which does not hold it")
    return tuple(tensors.values())


def _read_index(index: Path) -> dict[str, str]:
    """Names of tensors to names of files, all of which lie beside the index."""
    content = read_json(index, most_bytes=_MOST_INDEX_BYTES, most_values=_MOST_TENSORS)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ModelFileError(index, "has no weight_map that tells which file holds which tensor")
    for name in places.values():
        if not isinstance(name, str) or not _BESIDE.fullmatch(name):
            raise ModelFileError(index, f"names {str(name)[:80]!r}, which cannot be a {_SUFFIX} file beside it")
    return places


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
