"""ggml's own row kernels, called through ctypes: the code that llama.cpp quantizes with.

The library is ``libggml-base`` from the package libggml-python. How large the blocks of a type are is
asked of it, so that no table here can disagree with the kernels. It is loaded on first use.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from llamatelemetry.errors import MissingDependencyError

__all__ = ["Ggml", "TensorType", "kernel_version", "load_ggml"]

_PACKAGE: Final = "libggml-python"

_INSTALL: Final = "pip install --force-reinstall libggml-python"
_RUNS: Final = (
    (0, "F32 F16 Q4_0 Q4_1"),
    (6, "Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS"),
    (24, "I8 I16 I32 I64 F64 IQ1_M BF16"),
    (34, "TQ1_0 TQ2_0"),
    (39, "MXFP4 NVFP4 Q1_0 Q2_0"),
)
"""``enum ggml_type`` in ggml.h: runs of numbers, and the names they have.

The library cannot be asked for it: past its last type it reads what is not there.
"""

_NUMBERS: Final = {name: number for first, names in _RUNS for number, name in enumerate(names.split(), first)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """How a tensor's numbers are stored.

    Attributes:
        number: Its number in GGUF files.
        name: For example ``Q4_K``.
        block: Numbers that are stored together; a row has a multiple of them.
        block_bytes: Bytes that such a block takes.
        quantized: Whether it is one of the block formats.
    """

    number: int
    name: str
    block: int
    block_bytes: int
    quantized: bool

    def size_of(self, elements: int) -> int:
        """Bytes of that many numbers, a multiple of the block."""
        return elements // self.block * self.block_bytes


class _Traits(ctypes.Structure):
    """``struct ggml_type_traits`` in ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


class Ggml:
    """The kernels of one loaded library. Every method releases the GIL while it computes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        number, count, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
        self._quantize = library.ggml_quantize_chunk
        self._quantize.argtypes = (number, pointer, pointer, count, count, count, pointer)
        self._quantize.restype = ctypes.c_size_t
        self._validate = library.ggml_validate_row_data
        self._validate.argtypes = (number, pointer, ctypes.c_size_t)
        self._validate.restype = ctypes.c_bool
        self._f16 = library.ggml_fp16_to_fp32_row
        self._bf16 = library.ggml_bf16_to_fp32_row
        for widen in (self._f16, self._bf16):
            widen.argtypes = (pointer, pointer, count)
            widen.restype = None
        traits = library.ggml_get_type_traits
        traits.argtypes = (number,)
        traits.restype = ctypes.POINTER(_Traits)
        types, self._to_float = _types(library, traits)
        self.types: Mapping[str, TensorType] = MappingProxyType({found.name: found for found in types})
        self.types_by_number: Mapping[int, TensorType] = MappingProxyType({found.number: found for found in types})

    def validate(self, kind: TensorType, address: int, size_bytes: int) -> bool:
        """Whether whole blocks at an address hold finite numbers only."""
        return bool(self._validate(kind.number, address, size_bytes))

    def widen(self, kind: TensorType, source: int, target: int, elements: int) -> None:
        """Writes numbers of any floating or quantized type as float32.

        Raises:
            ValueError: The type has no numbers that float32 could hold.
        """
        match kind.name:
            case "F16":
                self._f16(source, target, elements)
            case "BF16":
                self._bf16(source, target, elements)
            case name if name in self._to_float:
                self._to_float[name](source, target, elements)
            case name:
                raise ValueError(f"{name} cannot be made float32")

    def can_widen(self, kind: TensorType) -> bool:
        """Whether :meth:`widen` takes it."""
        return kind.name in {"F16", "BF16"} or kind.name in self._to_float

    def quantize(
        self, kind: TensorType, source: int, target: int, *, rows: int, row: int, importance: int | None
    ) -> int:
        """Quantizes rows of float32 numbers; returns the bytes written.

        Args:
            kind: What to write.
            source: Address of ``rows * row`` float32 numbers.
            target: Address of the room for what is written.
            rows: How many rows.
            row: Numbers in one, a multiple of the type's block.
            importance: Address of ``row`` float32 numbers: how much each column matters.
        """
        return int(self._quantize(kind.number, source, target, 0, rows, row, importance))


def _types(library: ctypes.CDLL, traits: Any) -> tuple[list[TensorType], dict[str, Any]]:
    """Every type that the library knows, and how those that are quantized become float32."""
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    types: list[TensorType] = []
    to_float: dict[str, Any] = {}
    for name, number in _NUMBERS.items():
        raw, block, block_bytes = (
            ask(number) for ask in (library.ggml_type_name, library.ggml_blck_size, library.ggml_type_size)
        )
        found = traits(number).contents
        # The structure is no promise of ggml's, as its functions are; and a number may have got another meaning.
        if (found.blck_size, found.type_size, found.type_name) != (block, block_bytes, raw) or (
            raw.decode(errors="replace").upper() != name
        ):
            raise MissingDependencyError("quantization", "a libggml-python whose types are known here", _INSTALL)
        types.append(
            TensorType(number=number, name=name, block=block, block_bytes=block_bytes, quantized=found.is_quantized)
        )
        if found.is_quantized and found.to_float:
            to_float[name] = found.to_float
    return types, to_float


@functools.cache
def load_ggml() -> Ggml:
    """The kernels, loaded once for each process.

    Raises:
        MissingDependencyError: libggml-python is not installed, or not for this kind of machine.
    """
    found = importlib.util.find_spec("libggml")
    folders = [Path(folder) for folder in found.submodule_search_locations or ()] if found else []
    names = (path for folder in folders for path in sorted(folder.glob("lib*/libggml-base.*")))
    library = next(names, None)
    if library is None:
        raise MissingDependencyError("quantization", "libggml-python", _INSTALL)
    try:
        return Ggml(ctypes.CDLL(str(library)))
    except (OSError, AttributeError) as error:
        # AttributeError: a function is not there.
        raise MissingDependencyError("quantization", f"a libggml-python that loads ({error})", _INSTALL) from error


def kernel_version() -> dict[str, str]:
    """The package of the kernels and its version, which decide every byte; empty where it is not installed."""
    try:
        return {_PACKAGE: version(_PACKAGE)}
    except PackageNotFoundError:
        return {}  # Using them says what is missing.
