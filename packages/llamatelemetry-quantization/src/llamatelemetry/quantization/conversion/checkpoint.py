"""A Hugging Face checkpoint as files: its configuration, and where its weights are.

Weights are read piece by piece and never mapped, so that a file that shrinks meanwhile is an error and
not a crash, and so that nothing of a model stays in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.configurations import read_configuration
from llamatelemetry.untrusted.files import open_regular
from llamatelemetry.untrusted.json_values import read_object
from llamatelemetry.untrusted.safetensors_header import StoredTensor, read_header

__all__ = ["Checkpoint", "open_checkpoint"]

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_MOST_INDEX_BYTES: Final = 2**24
_MOST_INDEX_VALUES: Final = 2**18
_MOST_SHARDS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
        folder: Where it is.
        config: What ``config.json`` says.
        tensors: Its tensors, shard by shard, in the order in which they are stored.
        files: The open shards, by their paths.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]
    files: Mapping[Path, FileIO]

    @property
    def size_bytes(self) -> int:
        """Bytes that all tensors take."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Opens a checkpoint, and sees at the end that nobody wrote to its weights meanwhile.

    Raises:
        ModelFileError: Something is missing, damaged or not a checkpoint, or changed while it was read.
    """
    if not folder.is_dir():
        raise ModelFileError(folder, "is not a folder: give the one that has config.json in it")
    config = read_configuration(folder / "config.json")
    places = _places(folder)
    names = sorted(set(places.values())) if places else [_SINGLE]
    with ExitStack() as stack:
        files = {folder / name: stack.enter_context(open_regular(folder / name)) for name in names}
        tensors = [tensor for path, file in files.items() for tensor in read_header(path, file)]
        _check_places(folder, places, tensors)
        before = {path: _state(file) for path, file in files.items()}
        yield Checkpoint(folder=folder, config=config, tensors=tuple(tensors), files=files)
        for path, file in files.items():
            if _state(file) != before[path]:
                raise ModelFileError(path, "changed while it was read: wait until nothing writes to it, then try again")


def _places(folder: Path) -> dict[str, str]:
    """Names of tensors to those of the shards that hold them; nothing where there is one file."""
    index = folder / _INDEX
    if not index.exists():
        if not (folder / _SINGLE).exists():
            raise ModelFileError(folder, _what_instead(folder))
        return {}
    places = read_object(index, most_bytes=_MOST_INDEX_BYTES, most_values=_MOST_INDEX_VALUES).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelFileError(index, "has no weight_map of tensors to files")
    shards = set(places.values())
    if len(shards) > _MOST_SHARDS:
        raise ModelFileError(index, f"names {len(shards)} files, and {_MOST_SHARDS} is the limit")
    for name in shards:
        # Weights of another folder are not this model's, whoever wrote the index.
        if Path(name).name != name or not name.endswith(".safetensors") or "\0" in name:
            raise ModelFileError(index, f"names {name[:200]!r}, which is no safetensors file beside it")
    return places


def _what_instead(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        return "has weights as pickles, which are programs: save them with model.save_pretrained(...) as safetensors"
    if (folder / "adapter_model.safetensors").exists():
        return "is an adapter: merge it into its base model first"
    return f"has neither {_SINGLE} nor {_INDEX}"


def _check_places(folder: Path, places: Mapping[str, str], tensors: list[StoredTensor]) -> None:
    found: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in found:
            raise ModelFileError(tensor.path, f"has {tensor.name[:200]!r}, which {found[tensor.name]} has too")
        found[tensor.name] = tensor.path.name
    if not places:
        return
    missing = sorted(places.keys() - found.keys())
    if missing:
        raise ModelFileError(folder / _INDEX, f"tells of {missing[0][:200]!r}, and {places[missing[0]]} lacks it")
    more = sorted(found.keys() - places.keys())
    if more:
        raise ModelFileError(folder / _INDEX, f"does not tell of {more[0][:200]!r} in {found[more[0]]}")


def _state(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
