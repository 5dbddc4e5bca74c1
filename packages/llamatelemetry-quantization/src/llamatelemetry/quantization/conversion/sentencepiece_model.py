"""A ``tokenizer.model`` of sentencepiece, read as the protocol buffer it is.

Only what llama.cpp needs is understood: the pieces, and whether a text gets a space before it. The rest
is skipped, and every length is held against the bytes that are there.

Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization.conversion.vocabulary import Added, Kind, Vocabulary
from llamatelemetry.untrusted.files import read_bounded

__all__ = ["sentencepiece"]

_MOST_BYTES: Final = 2**25
_PIECE: Final = 1
_TRAINER: Final = 2
_NORMALIZER: Final = 3
_MODEL_TYPE: Final = 3
_BPE: Final = 2
_DUMMY_PREFIX: Final = 3
_ADDED_SCORE: Final = -1000.0
_UNUSED_SCORE: Final = -10000.0
# Pieces that users defined are found among the added tokens; as pieces they are like any other to llama.cpp.
_KINDS: Final = {1: Kind.NORMAL, 2: Kind.UNKNOWN, 3: Kind.CONTROL, 4: Kind.NORMAL, 5: Kind.UNUSED, 6: Kind.BYTE}


def sentencepiece(path: Path, size: int, added: tuple[Added, ...]) -> Vocabulary:
    """The tokenizer of a ``tokenizer.model``.

    Args:
        path: The file.
        size: Tokens that the model has.
        added: Tokens that were added to it, in place of what is there.

    Raises:
        ModelFileError: It is missing, damaged, not of sentencepiece, or merges no pairs.
    """
    tokens = [f"[PAD{number}]".encode() for number in range(size)]
    kinds, scores = [Kind.UNUSED] * size, [_UNUSED_SCORE] * size
    count, prefix, model_type = 0, True, 1
    try:
        for field, value in _fields(read_bounded(path, _MOST_BYTES)):
            if field == _PIECE and count < size:
                tokens[count], scores[count], kinds[count] = _piece(value)
                count += 1
            elif field == _TRAINER:
                model_type = _last_number(value, _MODEL_TYPE, model_type)
            elif field == _NORMALIZER:
                prefix = bool(_last_number(value, _DUMMY_PREFIX, prefix))
    except (ValueError, TypeError, struct.error) as error:
        raise ModelFileError(path, f"is not a model of sentencepiece: {error}") from error
    if not count:
        raise ModelFileError(path, "is not a model of sentencepiece: it has no pieces")
    if model_type != _BPE:
        raise ModelFileError(path, "is of a tokenizer that merges no pairs; those of model_type BPE are converted")
    for each in added:
        if each.number >= size:
            raise ModelFileError(path, f"was given {each.content[:100]!r} as {each.number}, and has {size} tokens")
        tokens[each.number], kinds[each.number], scores[each.number] = each.stored(path), each.kind, _ADDED_SCORE
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        scores=tuple(scores),
        space_prefix=prefix,
    )


def _piece(data: Any) -> tuple[bytes, float, Kind]:
    text, score, kind = b"", 0.0, 1
    for field, value in _fields(data):
        if field == 1:
            text = bytes(value)
        elif field == 2:
            (score,) = struct.unpack("<f", value)
        elif field == 3:
            kind = int(value)
    text.decode()
    if kind not in _KINDS or not math.isfinite(score):
        raise ValueError(f"the piece {text[:100]!r} has the type {kind} and the score {score}")
    return text, score, _KINDS[kind]


def _last_number(data: Any, wanted: int, default: int) -> int:
    found = default
    for field, value in _fields(data):
        if field == wanted:
            found = int(value)
    return found


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Numbers of the fields of a message to what they hold: a number, or bytes."""
    if not isinstance(data, bytes):
        raise ValueError("a message is expected, and a number is there")  # noqa: TRY004  As all that is damaged.
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = divmod(key, 8)
        if wire == 0:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in {1, 5}:
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"it has a field of wire type {wire}")
        if length > len(data) - at:
            raise ValueError("it is cut off")
        yield field, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it has a number of more than 64 bits")
