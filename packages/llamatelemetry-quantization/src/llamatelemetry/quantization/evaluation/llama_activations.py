"""Adds up the squares of what goes into each weight while llama.cpp computes, as its ``llama-imatrix`` does.

llama.cpp asks a callback of each tensor that it is about to compute, and shows it to those who said that they
want to see it. Seen are products of a weight of a block and what goes into it; the latter is a field of the
tensor. Where the fields are is tried out on tensors made for it, so that a ggml which has them elsewhere is
refused before anything is read.

Structure: ``struct ggml_tensor`` in ``ggml/include/ggml.h`` of llama.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llamatelemetry.quantization.evaluation.llama_api import LlamaProblem, Watcher

__all__ = ["ActivationSums"]

_F32: Final = 0
_I32: Final = 26
_TRIAL_BYTES: Final = 1 << 16

Numbers = npt.NDArray[np.float64]


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor``."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


class _Room(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class ActivationSums:
    """Sums of squares for each column of each weight, of all that is computed from now on.

    Args:
        library: libllama.

    Raises:
        LlamaProblem: Its tensors have other fields than those known here.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._read = library.ggml_backend_tensor_get
        self._read.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
        self._read.restype = None
        self._size = library.ggml_nbytes
        self._size.argtypes, self._size.restype = (ctypes.c_void_p,), ctypes.c_size_t
        self._product, self._expert_product = _operations(library)
        self._sums: dict[str, Numbers] = {}
        self._counts: dict[str, npt.NDArray[np.int64]] = {}
        self.callback: Any = Watcher(self._watch)

    def take(self) -> Iterator[tuple[str, int, list[int], bytes]]:
        """Of each weight: its name, how many matrices it is of, rows that went into each, and the sums in float64."""
        for name, sums in self._sums.items():
            yield name, len(sums), self._counts[name].tolist(), sums.tobytes()

    def _watch(self, address: int, ask: bool, _data: int | None) -> bool:  # noqa: FBT001  It is C's to call.
        tensor = _Tensor.from_address(address)
        if tensor.op not in {self._product, self._expert_product}:
            return not ask
        weight, entering = (_Tensor.from_address(tensor.src[place]) for place in range(2))
        name = _name(weight)
        if not name.startswith("blk.") or not name.endswith(".weight") or entering.type != _F32:
            return not ask
        if not ask:
            self._add(name, tensor, weight.ne[2])
        return True

    def _add(self, name: str, tensor: _Tensor, matrices: int) -> None:
        values = self._values(tensor.src[1], np.float32)
        sums = self._sums.setdefault(name, np.zeros((matrices, values.shape[-1])))
        counts = self._counts.setdefault(name, np.zeros(matrices, np.int64))
        if tensor.op == self._product:
            shared = values.shape[1] // matrices
            parts = ((matrix, values[:, matrix * shared : (matrix + 1) * shared]) for matrix in range(matrices))
        else:
            # Tokens, then the experts that each is sent to; what goes in may be one row for all of them.
            sent = self._values(tensor.src[2], np.int32)[0, 0]
            rows = values[0]
            parts = ((int(expert), _sent_to(int(expert), sent, rows)) for expert in np.unique(sent))
        for matrix, part in parts:
            flat = part.reshape(-1, part.shape[-1]).astype(np.float64)
            sums[matrix] += np.einsum("ij,ij->j", flat, flat)
            counts[matrix] += len(flat)

    def _values(self, address: int, dtype: type[np.float32 | np.int32]) -> npt.NDArray[Any]:
        tensor = _Tensor.from_address(address)
        raw = np.empty(self._size(address), np.uint8)
        self._read(address, raw.ctypes.data, 0, raw.size)
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        return np.ndarray(shape, dtype, buffer=raw, strides=strides)


def _sent_to(expert: int, sent: npt.NDArray[np.int32], rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    tokens, slots = np.nonzero(sent == expert)
    found: npt.NDArray[np.float32] = rows[tokens, slots % rows.shape[1]]
    return found


def _name(tensor: _Tensor) -> str:
    """A weight's name; a copy on a device is called ``CUDA0#blk.0.attn_q.weight#0``."""
    name = bytes(tensor.name).decode(errors="replace")
    return name.split("#")[1] if name.count("#") > 1 else name


def _operations(library: ctypes.CDLL) -> tuple[int, int]:
    """The numbers of ``ggml_mul_mat`` and ``ggml_mul_mat_id``, taken from tensors made by them."""
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    functions: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "ggml_init": (pointer, (_Room,)),
        "ggml_free": (None, (pointer,)),
        "ggml_new_tensor_3d": (pointer, (pointer, ctypes.c_int, count, count, count)),
        "ggml_set_name": (pointer, (pointer, ctypes.c_char_p)),
        "ggml_mul_mat": (pointer, (pointer, pointer, pointer)),
        "ggml_mul_mat_id": (pointer, (pointer, pointer, pointer, pointer)),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    room = library.ggml_init(_Room(_TRIAL_BYTES, None, True))
    weight = library.ggml_new_tensor_3d(room, _F32, 32, 5, 3)
    library.ggml_set_name(weight, b"blk.7")
    entering = library.ggml_new_tensor_3d(room, _F32, 32, 2, 3)
    sent = library.ggml_new_tensor_3d(room, _I32, 2, 3, 1)
    made = [
        _Tensor.from_address(library.ggml_mul_mat(room, weight, entering)),
        _Tensor.from_address(library.ggml_mul_mat_id(room, weight, entering, sent)),
    ]
    first = _Tensor.from_address(weight)
    numbers = made[0].op, made[1].op
    known = (
        tuple(first.ne) == (32, 5, 3, 1)
        and tuple(first.nb) == (4, 128, 640, 1920)
        and _name(first) == "blk.7"
        and [each.src[0] for each in made] == [weight, weight]
        and [each.src[1] for each in made] == [entering, entering]
        and made[1].src[2] == sent
        and len({first.op, *numbers}) == 3
    )
    library.ggml_free(room)
    if not known:
        raise LlamaProblem("its tensors are of a release that is not known here")
    return numbers
