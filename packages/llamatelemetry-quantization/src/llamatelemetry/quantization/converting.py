"""Makes a GGUF file of a Hugging Face checkpoint, without torch and without the model in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Final

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.conversion.checkpoint import Checkpoint, open_checkpoint
from llamatelemetry.quantization.conversion.config_values import ConfigValues
from llamatelemetry.quantization.conversion.families import family_of
from llamatelemetry.quantization.conversion.gguf_head import Described, Head, Value, build_head
from llamatelemetry.quantization.conversion.model_keys import model_keys
from llamatelemetry.quantization.conversion.rope import Rope, read_rope
from llamatelemetry.quantization.conversion.sizes import read_sizes
from llamatelemetry.quantization.conversion.tensor_plan import PlannedTensor, plan_tensors
from llamatelemetry.quantization.conversion.tensor_work import Worker, pieces_of
from llamatelemetry.quantization.conversion.tokenizer import tokenizer_keys
from llamatelemetry.quantization.crew import done_by
from llamatelemetry.quantization.file_types import FILE_TYPES, FileType
from llamatelemetry.quantization.ggml import Ggml, load_ggml
from llamatelemetry.quantization.new_file import new_file

__all__ = ["CONVERTED_TYPES", "ConvertProgress", "ConvertedModel", "convert"]

CONVERTED_TYPES: Final = ("F32", "F16", "BF16", "Q8_0")
"""What a checkpoint is converted to; smaller types are made of such a file with ``quantize``."""

_QUANTIZATION_VERSION: Final = 2
"""``GGML_QNT_VERSION`` in ggml.h: of the formats of the quantized types."""
_MOST_THREADS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertProgress:
    """How far it got.

    Attributes:
        done_bytes: Bytes of the checkpoint's weights that are done.
        total_bytes: Bytes of all that are converted.
        tensor: The tensor that was last worked on, as llama.cpp calls it.
    """

    done_bytes: int
    total_bytes: int
    tensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedModel:
    """What was made.

    Attributes:
        path: The new file.
        architecture: What llama.cpp calls its architecture.
        file_type: The type of its matrices.
        size_bytes: Its size.
        source_bytes: Bytes of the weights it was made of.
        elements: Numbers in all tensors.
        tensor_types: Types of tensors to how many of them have it.
    """

    path: Path
    architecture: str
    file_type: str
    size_bytes: int
    source_bytes: int
    elements: int
    tensor_types: Mapping[str, int]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    file_type: str = "F16",
    name: str | None = None,
    threads: int | None = None,
    metadata: Mapping[str, str | int] = MappingProxyType({}),
    on_progress: Callable[[ConvertProgress], None] | None = None,
) -> ConvertedModel:
    """Writes a GGUF file of a checkpoint.

    The new file appears under its name when it is whole and on the disk; one that was there is replaced.
    Whatever goes wrong before, nothing is left. Each thread needs a few megabytes, however large the model.

    Args:
        source: A folder as transformers saves it: ``config.json``, safetensors and a tokenizer.
        target: The file to write.
        file_type: ``F32``, ``F16``, ``BF16`` or ``Q8_0`` of the matrices; the rest is F32.
        name: What the file calls the model; the folder's name where None.
        threads: Threads to compute with; as many as there are CPUs for this process where None.
        metadata: Keys to add to the file, texts and numbers below 2**32.
        on_progress: Called in this thread, often. What it raises ends the work and is raised here.

    Raises:
        InvalidValueError: An argument cannot be used.
        UnknownNameError: The architecture or the pre-tokenizer is none of those that are known.
        ModelFileError: A file is missing, damaged or of another model, or cannot be written, as on a full disk.
        MissingDependencyError: libggml-python is not installed.
    """
    chosen = _chosen(file_type)
    crew = _threads(threads)
    source, target = Path(source), Path(target)
    ggml = load_ggml()
    with open_checkpoint(source) as checkpoint:
        _check_apart(checkpoint, source, target)
        values = ConfigValues(source / "config.json", checkpoint.config)
        family = family_of(values)
        sizes = read_sizes(values, default_head=family.default_head)
        rope = read_rope(values, family, sizes)
        tensors = plan_tensors(
            checkpoint,
            family,
            sizes,
            types=ggml.types,
            matrices=ggml.types[chosen.base],
            tied=values.flag("tie_word_embeddings", default=family.tied),
        )
        keys: dict[str, Value] = {
            "general.architecture": family.architecture,
            "general.type": "model",
            "general.name": name or source.resolve().name,
            "general.file_type": chosen.number,
            "general.quantization_version": _QUANTIZATION_VERSION,
        }
        described = {**model_keys(values, family, sizes), **rope.keys}
        keys |= {f"{family.architecture}.{key}": value for key, value in described.items()}
        keys |= tokenizer_keys(source, checkpoint.config, sizes.vocabulary)
        _add(keys, metadata)
        head = _lay_out(keys, rope, tensors, ggml)
        with new_file(target, head.size_bytes) as made:
            _write_head(head, rope, made)
            workers = [Worker(ggml, checkpoint.files, made) for _ in range(crew)]
            _carry_out(tensors, head.starts[len(rope.factors) :], workers, on_progress)
    types = Counter(tensor.type.name for tensor in tensors)
    types["F32"] += len(rope.factors)
    return ConvertedModel(
        path=target,
        architecture=family.architecture,
        file_type=chosen.name,
        size_bytes=head.size_bytes,
        source_bytes=sum(tensor.source.size_bytes for tensor in tensors),
        elements=sum(tensor.elements for tensor in tensors) + sum(each.size for each in rope.factors.values()),
        tensor_types=MappingProxyType(dict(types.most_common())),
    )


def _chosen(file_type: str) -> FileType:
    if file_type.upper() not in CONVERTED_TYPES:
        fix = f"give one of {', '.join(CONVERTED_TYPES)}; smaller types are made of such a file with quantize"
        raise InvalidValueError("file_type", file_type, fix)
    return FILE_TYPES[file_type.upper()]


def _threads(threads: int | None) -> int:
    if threads is None:
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    if not 1 <= threads <= _MOST_THREADS:
        raise InvalidValueError("threads", threads, f"give 1 to {_MOST_THREADS}")
    return threads


def _check_apart(checkpoint: Checkpoint, source: Path, target: Path) -> None:
    try:
        status = target.stat()
    except (OSError, ValueError):
        return  # It is not there yet, or cannot be: then writing it says so.
    weights = [os.fstat(file.fileno()) for file in checkpoint.files.values()]
    # Nothing that stands in a checkpoint was made of it, but for GGUF files.
    others = [path.stat() for path in source.iterdir() if path.suffix != ".gguf" and path.exists()]
    if any(os.path.samestat(each, status) for each in (*weights, *others)):
        raise InvalidValueError("target", str(target), "give another file than one of the checkpoint")


def _add(keys: dict[str, Value], metadata: Mapping[str, str | int]) -> None:
    for key, value in metadata.items():
        if key in keys or key == "general.alignment":
            raise InvalidValueError("metadata", key, "choose another key: this one says how the file is read")
        if not key or len(key.encode(errors="replace")) > 255 or "\0" in key:
            raise InvalidValueError("metadata", key, "give a key of 1 to 255 bytes")
        if not isinstance(value, str) and not 0 <= value < 2**32:
            raise InvalidValueError(f"metadata[{key!r}]", value, "give a text, or a number from 0 to 4294967295")
        keys[key] = value


def _lay_out(keys: Mapping[str, Value], rope: Rope, tensors: Sequence[PlannedTensor], ggml: Ggml) -> Head:
    whole = ggml.types["F32"]
    factors = [
        Described(name=name, shape=numbers.shape, type=whole, size_bytes=numbers.nbytes)
        for name, numbers in rope.factors.items()
    ]
    weights = [
        Described(name=each.name, shape=each.shape, type=each.type, size_bytes=each.size_bytes) for each in tensors
    ]
    return build_head(keys, [*factors, *weights])


def _write_head(head: Head, rope: Rope, target: int) -> None:
    _write(target, head.data, 0)
    for start, numbers in zip(head.starts, rope.factors.values(), strict=False):
        _write(target, numbers.tobytes(), start)


def _write(target: int, data: bytes, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(target, memoryview(data)[done:], at + done)


def _carry_out(
    tensors: Sequence[PlannedTensor],
    starts: Sequence[int],
    workers: Sequence[Worker],
    on_progress: Callable[[ConvertProgress], None] | None,
) -> None:
    total = sum(tensor.source.size_bytes for tensor in tensors)
    done = 0
    pieces = chain.from_iterable(pieces_of(tensor, start) for tensor, start in zip(tensors, starts, strict=True))
    with ExitStack() as stack:
        for piece in stack.enter_context(done_by([worker.do for worker in workers], pieces)):
            done += piece.source_bytes
            if on_progress is not None:
                on_progress(ConvertProgress(done_bytes=done, total_bytes=total, tensor=piece.tensor.name))
