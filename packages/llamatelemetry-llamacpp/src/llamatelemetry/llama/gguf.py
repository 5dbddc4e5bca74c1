"""What a GGUF model file says of itself, read without its weights.

The header of a file somebody downloaded is not to be trusted: every count and every length is
checked against the bytes that are there before anything is allocated or looped over, and what is
kept in memory has a budget. So a file of many gigabytes opens in milliseconds, and a hostile one
costs a few megabytes and ends in a :class:`ModelFileError`.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.block_caches import block_caches
from llamatelemetry.llama.ggml_types import FILE_TYPE_GUESSED, FILE_TYPES
from llamatelemetry.llama.gguf_header import Tensor, Unread, Value, open_model_file, read_header

__all__ = ["GgufFile", "Tensor", "Unread", "Value", "read_gguf", "sha256_of"]

_F16_BYTES: Final = 2
_MAX_SIZE: Final = 2**31
"""Sizes of a model past it are nonsense, and would not fit the integers of telemetry."""

_DIGEST_PIECE_BYTES: Final = 2**20

# enum llama_pooling_type in llama.cpp's include/llama.h, in its order
_POOLINGS: Final = ("none", "mean", "cls", "last", "rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """The header of a GGUF file. What the file does not say is None.

    Attributes:
        path: The file.
        size_bytes: Its size.
        version: Version of the format.
        metadata: Its key-value pairs; a large array or text is an :class:`Unread`.
        tensors: Its tensors, in the file's order.
    """

    path: Path
    size_bytes: int
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str | None:
        """For example ``llama``."""
        return self._text("general.architecture")

    @property
    def name(self) -> str | None:
        """The model's own name."""
        return self._text("general.name")

    @property
    def quantization(self) -> str | None:
        """File type, such as ``Q4_K_M``; without one, the tensor type that most weights have."""
        file_type = self._whole("general.file_type")
        if file_type is not None and (known := FILE_TYPES.get(file_type & ~FILE_TYPE_GUESSED)):
            return known
        weights: Counter[str] = Counter()
        for tensor in self.tensors:
            weights[tensor.type] += tensor.elements
        return weights.most_common(1)[0][0] if weights else None

    @property
    def parameters(self) -> int | None:
        """Number of weights; None for one part of a split model, which holds only some of them."""
        if not self.tensors or (self._whole("split.count") or 1) > 1:
            return None
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def context_length(self) -> int | None:
        """Tokens the model was trained for."""
        return self.own("context_length")

    @property
    def block_count(self) -> int | None:
        """Number of transformer blocks."""
        return self.own("block_count")

    @property
    def embedding_length(self) -> int | None:
        """Width of the embeddings."""
        return self.own("embedding_length")

    @property
    def head_count(self) -> int | None:
        """Attention heads; the most that any block has."""
        return max(self.per_block("attention.head_count"), default=None)

    @property
    def head_count_kv(self) -> int | None:
        """Attention heads with keys and values of their own; the most that any block has."""
        return max(self.per_block("attention.head_count_kv"), default=self.head_count)

    @property
    def kv_bytes_per_token(self) -> int | None:
        """Bytes of KV cache one token takes in f16, llama.cpp's default.

        It is an upper bound where blocks have sliding windows: they forget what is behind them.
        """
        caches = block_caches(self) or ()
        return sum(cache.key_elements + cache.value_elements for cache in caches) * _F16_BYTES or None

    @property
    def pooling(self) -> str | None:
        """How it makes one embedding of many tokens: ``mean``, ``cls``, ``last``, ``rank`` or ``none``."""
        kind = self._whole(f"{self.architecture}.pooling_type")
        return _POOLINGS[kind] if kind is not None and 0 <= kind < len(_POOLINGS) else None

    def own(self, key: str) -> int | None:
        """A size that the architecture gives under ``key``; None if there is none, or one that makes no sense."""
        value = self._whole(f"{self.architecture}.{key}")
        return value if value is not None and 0 < value <= _MAX_SIZE else None

    def per_block(self, key: str) -> tuple[int, ...]:
        """What the architecture gives under ``key``: one number for all blocks, or one for each; empty for none."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        numbers = value if isinstance(value, tuple) else (value,)
        return tuple(number for number in numbers if isinstance(number, int) and 0 <= number <= _MAX_SIZE)

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None

    def _whole(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Reads the header of a GGUF file.

    Raises:
        ModelFileError: The file is missing, unreadable, cut off, damaged, or not GGUF; the message
            says what it looks like instead.
    """
    header = read_header(Path(path))
    return GgufFile(
        path=Path(path),
        size_bytes=header.size_bytes,
        version=header.version,
        metadata=header.metadata,
        tensors=header.tensors,
    )


def sha256_of(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> str:
    """Digest of a whole file, 64 hex digits; a second or more per gigabyte.

    Args:
        path: The file.
        progress: Called with the bytes done and the bytes in all, about once per megabyte.

    Raises:
        ModelFileError: The file cannot be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_DIGEST_PIECE_BYTES))
    done = 0
    with open_model_file(Path(path)) as file:
        total = os.fstat(file.fileno()).st_size
        try:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                done += count
                if progress is not None:
                    progress(done, total)
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    return digest.hexdigest()
