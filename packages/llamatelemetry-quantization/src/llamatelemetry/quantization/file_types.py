"""The file types that llama.cpp knows: what ``--type`` takes, and the number each has in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamatelemetry.errors import InvalidValueError

__all__ = ["FILE_TYPES", "FileType", "file_type"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileType:
    """A mix of tensor types that has a name.

    Attributes:
        name: For example ``Q4_K_M``.
        number: ``general.file_type``, in ``enum llama_ftype`` of llama.h.
        base: Tensor type of all weights for which the mix names no other.
    """

    name: str
    number: int
    base: str


# The name, the number, and the tensor type where that is not the name. llama.cpp makes no other: of NVFP4 it
# reads files and refuses to quantize to it.
_KNOWN: Final = (
    ("F32", 0, ""),
    ("F16", 1, ""),
    ("BF16", 32, ""),
    ("Q4_0", 2, ""),
    ("Q4_1", 3, ""),
    ("Q5_0", 8, ""),
    ("Q5_1", 9, ""),
    ("Q8_0", 7, ""),
    ("Q2_K", 10, ""),
    ("Q2_K_S", 21, "Q2_K"),
    ("Q3_K_S", 11, "Q3_K"),
    ("Q3_K_M", 12, "Q3_K"),
    ("Q3_K_L", 13, "Q3_K"),
    ("Q4_K_S", 14, "Q4_K"),
    ("Q4_K_M", 15, "Q4_K"),
    ("Q5_K_S", 16, "Q5_K"),
    ("Q5_K_M", 17, "Q5_K"),
    ("Q6_K", 18, ""),
    ("IQ1_S", 24, ""),
    ("IQ1_M", 31, ""),
    ("IQ2_XXS", 19, ""),
    ("IQ2_XS", 20, ""),
    ("IQ2_S", 28, "IQ2_XS"),
    ("IQ2_M", 29, "IQ2_S"),
    ("IQ3_XXS", 23, ""),
    ("IQ3_XS", 22, "IQ3_S"),
    ("IQ3_S", 26, ""),
    ("IQ3_M", 27, "IQ3_S"),
    ("IQ4_NL", 25, ""),
    ("IQ4_XS", 30, ""),
    ("TQ1_0", 36, ""),
    ("TQ2_0", 37, ""),
    ("MXFP4_MOE", 38, "MXFP4"),
    ("Q1_0", 40, ""),
    ("Q2_0", 41, ""),
)

FILE_TYPES: Final = {name: FileType(name=name, number=number, base=base or name) for name, number, base in _KNOWN}
"""Every file type, by name."""

_SHORT: Final = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Names that stand for the usual one of several, as llama.cpp reads them."""


def file_type(name: str) -> FileType:
    """The file type of a name, in any case; ``Q4_K`` is ``Q4_K_M``.

    Raises:
        InvalidValueError: There is none of that name.
    """
    known = name.upper()
    found = FILE_TYPES.get(_SHORT.get(known, known))
    if found is None:
        raise InvalidValueError("file_type", name, f"give one of {', '.join(FILE_TYPES)}")
    return found
