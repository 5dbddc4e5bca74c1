"""One tensor in four bits, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.nf4.formats import FourBit
from llamatelemetry.quantization.nf4.runtime import load_bitsandbytes, load_torch, usable_device

__all__ = ["FourBitTensor", "dequantize_tensor", "quantize_tensor", "stored_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FourBitTensor:
    """A tensor in four bits.

    Attributes:
        four_bit: How.
        shape: The sizes that it had.
        packed: The four bits, laid out as bitsandbytes likes it there: a ``torch.Tensor`` to keep, not to read.
        state: Its scales and what else takes it back: bitsandbytes' ``QuantState``.
    """

    four_bit: FourBit
    shape: tuple[int, ...]
    packed: Any
    state: Any

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes, with its scales and without the sixteen values, which are the same for all."""
        return stored_bytes(self.packed, self.state)

    @property
    def bits_per_weight(self) -> float | None:
        """Bits for each number, scales included; None where there is no number."""
        return 8 * self.size_bytes / self.elements if self.elements else None


def quantize_tensor(tensor: Any, four_bit: FourBit | None = None, *, device: Any = None) -> FourBitTensor:
    """Stores a tensor in four bits.

    Args:
        tensor: A ``torch.Tensor`` of float32, float16 or bfloat16, of any shape and any layout in memory.
        four_bit: How; NF4 in blocks of 64 with double quantization where None.
        device: Where to compute and to keep it, for example ``cuda``; where the tensor is where None.

    Raises:
        InvalidValueError: The tensor has another type, or numbers that are not finite; or there is no such device.
        MissingDependencyError: torch or bitsandbytes is not installed; carries the command that installs both.
    """
    torch, functional = load_torch(), load_bitsandbytes().functional
    chosen = four_bit or FourBit()
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InvalidValueError("tensor", str(tensor.dtype), "give float32, float16 or bfloat16")
    there = tensor.detach().to(tensor.device if device is None else usable_device(device)).contiguous()
    if not torch.isfinite(there).all():
        raise InvalidValueError("tensor", "not finite", "look for an overflow: NaN and infinity have no four bits")
    packed, state = functional.quantize_4bit(
        # Flat: what packs into a single byte comes back transposed, which three sizes or more do not allow.
        there.reshape(-1),
        blocksize=chosen.block_size,
        quant_type=chosen.name,
        # A mean of no scales is NaN.
        compress_statistics=chosen.double_quantization and there.numel() > 0,
    )
    return FourBitTensor(four_bit=chosen, shape=tuple(tensor.shape), packed=packed, state=state)


def dequantize_tensor(quantized: FourBitTensor, *, dtype: Any = None) -> Any:
    """The numbers that four bits stand for, on the device they are on.

    Args:
        quantized: From :func:`quantize_tensor`.
        dtype: A ``torch.dtype``; the one that the tensor had where None.

    Returns:
        A ``torch.Tensor`` of the shape that it had.

    Raises:
        MissingDependencyError: torch or bitsandbytes is not installed; carries the command that installs both.
    """
    numbers = load_bitsandbytes().functional.dequantize_4bit(quantized.packed, quantized.state)
    numbers = numbers.reshape(quantized.shape)
    return numbers if dtype is None else numbers.to(dtype)


def stored_bytes(packed: Any, state: Any) -> int:
    """Bytes of a packed tensor, its scales, and what its scales were quantized with."""
    kept = [packed, state.absmax]
    if state.nested:
        kept += [state.offset, state.state2.absmax]
    return sum(each.numel() * each.element_size() for each in kept)
