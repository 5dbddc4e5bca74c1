"""Which four bits: the format, how many numbers share a scale, and whether scales are quantized themselves.

Both formats store one of sixteen values for each number, times the largest magnitude of its block. NF4's values are
quantiles of the normal distribution, which is how weights of trained models lie; FP4's are those of a float with
two bits of exponent and one of mantissa.

Source: QLoRA, section 3 and appendix E, https://arxiv.org/abs/2305.14314
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from llamatelemetry.errors import InvalidValueError

__all__ = ["BLOCK_SIZES", "DEFAULT_SKIP", "FormatName", "FourBit", "skip_patterns"]

FormatName = Literal["nf4", "fp4"]
"""What bitsandbytes calls the formats."""

BLOCK_SIZES: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Numbers that can share a scale."""

DEFAULT_SKIP: Final = ("lm_head", "embed_tokens")
"""Found in names of weights that stay as they are: what a model says depends on them most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBit:
    """How weights are stored in four bits.

    Attributes:
        name: ``nf4`` or ``fp4``.
        block_size: Numbers that share a scale, 32 to 4096, a power of two. Fewer lose less and take more.
        double_quantization: Whether scales are stored in eight bits instead of 32. At a block size of 64 that is
            4.13 bits a weight instead of 4.5, and loses next to nothing.
    """

    name: FormatName = "nf4"
    block_size: int = 64
    double_quantization: bool = True

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidValueError: A field cannot be used.
        """
        if self.name not in get_args(FormatName):
            raise InvalidValueError("name", self.name, "give 'nf4' or 'fp4'")
        if self.block_size not in BLOCK_SIZES:
            raise InvalidValueError("block_size", self.block_size, f"give one of {', '.join(map(str, BLOCK_SIZES))}")


def skip_patterns(skip: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """Regular expressions that are looked for in names.

    Raises:
        InvalidValueError: One is none.
    """
    if isinstance(skip, str):
        raise InvalidValueError("skip", skip, "give a list of regular expressions")
    try:
        return tuple(re.compile(pattern) for pattern in skip)
    except (re.error, TypeError) as error:
        raise InvalidValueError("skip", list(skip), f"give regular expressions: {error}") from None
