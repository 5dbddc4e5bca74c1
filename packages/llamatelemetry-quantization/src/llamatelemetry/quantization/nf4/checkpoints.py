"""What four bits would cost a checkpoint, measured tensor by tensor; nothing is written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization.conversion.checkpoint import open_checkpoint
from llamatelemetry.quantization.nf4.formats import DEFAULT_SKIP, FourBit, skip_patterns
from llamatelemetry.quantization.nf4.losses import Loss, TensorLoss, measure_loss, sum_of
from llamatelemetry.quantization.nf4.runtime import load_bitsandbytes, load_torch, usable_device
from llamatelemetry.quantization.nf4.tensors import dequantize_tensor, quantize_tensor
from llamatelemetry.untrusted.safetensors_header import StoredTensor

__all__ = ["CheckpointLoss", "CheckpointProgress", "measure_checkpoint"]

_DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointProgress:
    """How far it got.

    Attributes:
        done_bytes: Bytes of weights that were measured.
        total_bytes: Bytes of all that are.
        tensor: The tensor that was measured last.
    """

    done_bytes: int
    total_bytes: int
    tensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLoss:
    """What four bits would cost a checkpoint.

    Attributes:
        four_bit: How weights would be stored.
        tensors: What each matrix would lose, in the order in which they are stored.
        kept: Tensors that would stay as they are, to their sizes in bytes.
        kept_elements: Numbers in those.
        source_bytes: Bytes of all tensors as they are.
    """

    four_bit: FourBit
    tensors: tuple[TensorLoss, ...]
    kept: Mapping[str, int]
    kept_elements: int
    source_bytes: int

    @property
    def loss(self) -> Loss:
        """What all of the matrices would lose together."""
        return sum_of(each.loss for each in self.tensors)

    @property
    def size_bytes(self) -> int:
        """Bytes that all tensors would take, with scales."""
        return self.loss.size_bytes + sum(self.kept.values())

    @property
    def bits_per_weight(self) -> float | None:
        """Bits for each number of the whole model; None where it has none."""
        elements = self.loss.elements + self.kept_elements
        return 8 * self.size_bytes / elements if elements else None


def measure_checkpoint(
    folder: str | os.PathLike[str],
    four_bit: FourBit | None = None,
    *,
    skip: Sequence[str] = DEFAULT_SKIP,
    device: Any = "cpu",
    on_progress: Callable[[CheckpointProgress], None] | None = None,
) -> CheckpointLoss:
    """Measures what each matrix of a checkpoint would lose in four bits.

    One tensor at a time is read, so memory is a few times that of the largest, however large the model.

    Args:
        folder: As transformers saves it: ``config.json`` and safetensors.
        four_bit: How; NF4 in blocks of 64 with double quantization where None.
        skip: Regular expressions; a tensor in whose name one is found would stay as it is, as does what is no matrix.
        device: Where to compute, for example ``cuda``.
        on_progress: Called after each tensor. What it raises ends the work and is raised here.

    Raises:
        InvalidValueError: An argument cannot be used.
        ModelFileError: A file is missing, damaged, holds numbers that are not finite, or changed meanwhile.
        MissingDependencyError: torch or bitsandbytes is not installed; carries the command that installs both.
    """
    load_bitsandbytes()
    chosen, patterns, place = four_bit or FourBit(), skip_patterns(skip), usable_device(device)
    with open_checkpoint(Path(folder)) as checkpoint:
        taken = {each.name: each for each in checkpoint.tensors if _is_taken(each, patterns)}
        kept = [each for each in checkpoint.tensors if each.name not in taken]
        total, done = sum(each.size_bytes for each in taken.values()), 0
        losses = []
        for stored in taken.values():
            losses.append(_measured(stored, checkpoint.files[stored.path], chosen, place))
            done += stored.size_bytes
            if on_progress is not None:
                on_progress(CheckpointProgress(done_bytes=done, total_bytes=total, tensor=stored.name))
        return CheckpointLoss(
            four_bit=chosen,
            tensors=tuple(losses),
            kept={each.name: each.size_bytes for each in kept},
            kept_elements=sum(each.elements for each in kept),
            source_bytes=checkpoint.size_bytes,
        )


def _is_taken(stored: StoredTensor, patterns: Sequence[re.Pattern[str]]) -> bool:
    matrix = len(stored.shape) == 2 and stored.dtype in _DTYPES
    return matrix and not any(pattern.search(stored.name) for pattern in patterns)


def _measured(stored: StoredTensor, file: FileIO, four_bit: FourBit, device: Any) -> TensorLoss:
    original = _read(stored, file).to(device)
    try:
        quantized = quantize_tensor(original, four_bit)
    except InvalidValueError as error:
        raise ModelFileError(stored.path, f"holds numbers in {stored.name!r} that are {error.value}") from error
    loss = measure_loss(original, dequantize_tensor(quantized), size_bytes=quantized.size_bytes)
    return TensorLoss(name=stored.name, shape=stored.shape, loss=loss)


def _read(stored: StoredTensor, file: FileIO) -> Any:
    torch = load_torch()
    dtype = getattr(torch, _DTYPES[stored.dtype])
    if not stored.size_bytes:
        return torch.empty(stored.shape, dtype=dtype)
    raw, done = bytearray(stored.size_bytes), 0
    while done < len(raw):
        got = os.preadv(file.fileno(), [memoryview(raw)[done:]], stored.start + done)
        if not got:
            raise ModelFileError(stored.path, f"ended within {stored.name!r} while it was read: something cut it")
        done += got
    return torch.frombuffer(raw, dtype=dtype).reshape(stored.shape)
