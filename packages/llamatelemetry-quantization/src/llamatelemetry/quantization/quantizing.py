"""Makes a GGUF model smaller, byte for byte as llama.cpp's ``llama-quantize`` does it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization.crew import done_by
from llamatelemetry.quantization.file_types import FileType
from llamatelemetry.quantization.file_types import file_type as named_type
from llamatelemetry.quantization.ggml import Ggml, load_ggml
from llamatelemetry.quantization.gguf_layout import Layout
from llamatelemetry.quantization.gguf_reading import open_gguf, read_layout
from llamatelemetry.quantization.imatrix import Importance, read_importance
from llamatelemetry.quantization.mix import Choice, choose_types
from llamatelemetry.quantization.new_file import new_file
from llamatelemetry.quantization.output_plan import OutputPlan, importance_metadata, model_of, plan_output
from llamatelemetry.quantization.pieces import MOST_ROW, Worker, pieces_of

__all__ = ["QuantizeProgress", "QuantizedModel", "quantize"]

_MOST_THREADS: Final = 256
_COPY_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeProgress:
    """How far it got.

    Attributes:
        done_bytes: Bytes of the old weights that are done.
        total_bytes: Bytes of all of them.
        tensor: The tensor that was last worked on.
    """

    done_bytes: int
    total_bytes: int
    tensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedModel:
    """What was made.

    Attributes:
        path: The new file.
        file_type: Its mix, for example ``Q4_K_M``.
        size_bytes: Its size.
        source_bytes: Size of the file it was made of.
        elements: Numbers in all tensors.
        tensor_types: Types of tensors to how many of them have it.
        replaced: Names of tensors whose rows do not fit the type that the mix has for them, to that type and
            the one that took its place.
    """

    path: Path
    file_type: str
    size_bytes: int
    source_bytes: int
    elements: int
    tensor_types: Mapping[str, int]
    replaced: Mapping[str, tuple[str, str]]

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each number that the model has."""
        return self.size_bytes * 8 / self.elements


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    file_type: str,
    imatrix: str | os.PathLike[str] | Importance | None = None,
    threads: int | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    metadata: Mapping[str, str | int] = MappingProxyType({}),
    allow_requantize: bool = False,
    on_progress: Callable[[QuantizeProgress], None] | None = None,
) -> QuantizedModel:
    """Writes a smaller file of the same model.

    The new file appears under its name when it is whole and on the disk; one that was there is replaced.
    Whatever goes wrong before, nothing is left. Each thread needs a few megabytes, however large the model.

    Args:
        source: A GGUF file, best of F32, F16 or BF16.
        target: The file to write.
        file_type: The mix, for example ``Q4_K_M``: one of :data:`~llamatelemetry.quantization.FILE_TYPES`.
        imatrix: An importance matrix, or its file. The types of one to two bits need one.
        threads: Threads to compute with; as many as there are CPUs for this process where None.
        overrides: Regular expressions of tensor names, and the tensor type each has instead of the mix's. Each is
            found in some name.
        metadata: Keys to add to the file, texts and numbers below 2**32.
        allow_requantize: Whether weights may be quantized that were quantized before, which costs quality.
        on_progress: Called in this thread, often. What it raises ends the work and is raised here.

    Raises:
        InvalidValueError: An argument cannot be used, or not with this model.
        ModelFileError: A file cannot be read, is damaged, or cannot be written, as on a full disk.
        MissingDependencyError: libggml-python is not installed.
    """
    chosen = named_type(file_type)
    crew = _threads(threads)
    source, target = Path(source), Path(target)
    importance = imatrix if imatrix is None or isinstance(imatrix, Importance) else read_importance(imatrix)
    ggml = load_ggml()
    with open_gguf(source) as file:
        _check_apart(file, target)
        layout = read_layout(source, file, ggml.types_by_number)
        choices = choose_types(
            layout.tensors,
            file_type=chosen,
            model=model_of(layout),
            types=ggml.types,
            has_importance=importance is not None,
            overrides=overrides,
        )
        _check_sources(layout, choices, ggml, allow_requantize=allow_requantize)
        columns = {} if importance is None else _matched(importance, choices)
        _check_importance(choices, columns, chosen)
        noted = {} if importance is None else importance_metadata(importance)
        plan = plan_output(layout, choices, file_type=chosen, metadata={**noted, **metadata})
        with new_file(target, plan.size_bytes) as made, _unchanged(source, file):
            _write_head(plan, file, made)
            workers = [Worker(ggml, file.fileno(), made, path=source, importance=columns) for _ in range(crew)]
            _carry_out(plan, workers, on_progress)
    return _result(target, chosen, layout, plan)


def _threads(threads: int | None) -> int:
    if threads is None:
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    if not 1 <= threads <= _MOST_THREADS:
        raise InvalidValueError("threads", threads, f"give 1 to {_MOST_THREADS}")
    return threads


def _check_apart(file: BinaryIO, target: Path) -> None:
    try:
        same = os.path.samestat(os.fstat(file.fileno()), target.stat())
    except (OSError, ValueError):
        return  # It is not there yet, or cannot be: then writing it says so.
    if same:
        raise InvalidValueError("target", str(target), "give another file than the one to read")


def _check_sources(layout: Layout, choices: Sequence[Choice], ggml: Ggml, *, allow_requantize: bool) -> None:
    for choice in choices:
        tensor = choice.tensor
        if choice.type == tensor.type:
            continue
        if tensor.type.quantized and not allow_requantize:
            raise InvalidValueError(
                "source",
                str(layout.path),
                f"{tensor.name!r} is {tensor.type.name}, so quantized already, and loses more when that is done again: "
                "give the F16 or BF16 file, or allow it with allow_requantize=True (--allow-requantize)",
            )
        if tensor.type.name != "F32" and not ggml.can_widen(tensor.type):
            raise ModelFileError(layout.path, f"has {tensor.type.name} in {tensor.name!r}, which cannot be quantized")
        if tensor.row > MOST_ROW:
            raise ModelFileError(
                layout.path, f"has rows of {tensor.row} numbers in {tensor.name!r}; up to {MOST_ROW} can be quantized"
            )


def _matched(importance: Importance, choices: Sequence[Choice]) -> dict[str, npt.NDArray[np.float32]]:
    """The importance of each tensor that it knows, as long as that tensor wants it."""
    found = {}
    for choice in choices:
        tensor = choice.tensor
        values = importance.entries.get(tensor.name)
        if values is None or choice.type == tensor.type:
            continue
        wanted = tensor.row * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        if values.size == wanted:
            found[tensor.name] = values
        elif tensor.name != "token_embd.weight":  # llama.cpp lets that one pass: a tied output was measured.
            raise ModelFileError(
                importance.path,
                f"has {values.size} numbers for {tensor.name!r}, and {wanted} are needed: it is of another model",
            )
    return found


def _check_importance(
    choices: Sequence[Choice], columns: Mapping[str, npt.NDArray[np.float32]], file_type: FileType
) -> None:
    for choice in choices:
        if choice.needs_importance and choice.tensor.name not in columns:
            raise InvalidValueError(
                "file_type",
                file_type.name,
                f"{choice.tensor.name!r} would be {choice.type.name}, which is of no use without an importance matrix: "
                "give one that has it with imatrix= (--imatrix), or a larger type",
            )


@contextmanager
def _unchanged(path: Path, file: BinaryIO) -> Iterator[None]:
    """Sees to it that nobody wrote to a file meanwhile."""

    def state() -> tuple[int, ...]:
        status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns

    before = state()
    yield
    if state() != before:
        raise ModelFileError(path, "changed while it was read: wait until nothing writes to it, then try again")


def _write_head(plan: OutputPlan, file: BinaryIO, target: int) -> None:
    at = 0
    for piece in plan.pieces:
        if isinstance(piece, bytes):
            at += _written(target, piece, at)
            continue
        file.seek(piece.start)
        left = len(piece)
        while left:
            block = file.read(min(left, _COPY_BYTES))
            if not block:
                raise ModelFileError(file.name, "ended within its metadata while it was read: something cut it")
            at += _written(target, block, at)
            left -= len(block)


def _written(target: int, data: bytes, at: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(target, memoryview(data)[done:], at + done)
    return done


def _carry_out(
    plan: OutputPlan, workers: Sequence[Worker], on_progress: Callable[[QuantizeProgress], None] | None
) -> None:
    total = sum(part.choice.tensor.size_bytes for part in plan.parts)
    done = 0
    pieces = chain.from_iterable(pieces_of(part) for part in plan.parts)
    with ExitStack() as stack:
        for piece in stack.enter_context(done_by([worker.do for worker in workers], pieces)):
            done += piece.source_bytes
            if on_progress is not None:
                tensor = piece.part.choice.tensor.name
                on_progress(QuantizeProgress(done_bytes=done, total_bytes=total, tensor=tensor))


def _result(target: Path, file_type: FileType, layout: Layout, plan: OutputPlan) -> QuantizedModel:
    choices = [part.choice for part in plan.parts]
    return QuantizedModel(
        path=target,
        file_type=file_type.name,
        size_bytes=plan.size_bytes,
        source_bytes=layout.size_bytes,
        elements=sum(choice.tensor.elements for choice in choices),
        tensor_types=MappingProxyType(dict(Counter(choice.type.name for choice in choices).most_common())),
        replaced=MappingProxyType(
            {
                choice.tensor.name: (choice.wanted, choice.type.name)
                for choice in choices
                if choice.wanted != choice.type.name
            }
        ),
    )
