"""Texts to measure on: two that ship with the package, or a file. Cut into windows as llama-perplexity cuts them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from llamatelemetry.errors import InvalidValueError, ModelFileError

__all__ = ["CALIBRATION_TEXT", "QUALITY_TEXT", "Text", "Window", "read_text", "windows_of"]

QUALITY_TEXT: Final = "quality.txt"
"""What quality is measured on where no text is given."""

CALIBRATION_TEXT: Final = "calibration.txt"
"""What importance and sensitivity are measured on where no text is given; no line of it is in the other."""

_MOST_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text.

    Attributes:
        name: Its file's name.
        content: What it says.
        sha256: Digest of its bytes.
    """

    name: str
    content: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A piece of a text that a model sees at once.

    Attributes:
        tokens: What it is given.
        first: The first position whose logits are scored.
        targets: The tokens that came after that position and each that follows.
    """

    tokens: tuple[int, ...]
    first: int
    targets: tuple[int, ...]


def read_text(path: str | os.PathLike[str] | None, shipped: str = QUALITY_TEXT) -> Text:
    """A text file.

    Args:
        path: The file, in UTF-8; None for one that ships with the package.
        shipped: Which of those.

    Raises:
        ModelFileError: It cannot be read, or is no text.
    """
    if path is None:
        return _text(Path(shipped), (files(__package__) / shipped).read_bytes())
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelFileError(path, f"has more than {_MOST_BYTES >> 20} MiB; give a shorter text")
        return _text(path, path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelFileError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _text(path: Path, raw: bytes) -> Text:
    try:
        content = raw.decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(path, "is no text in UTF-8; give one that is") from error
    return Text(name=path.name, content=content, sha256=hashlib.sha256(raw).hexdigest())


def windows_of(
    text: Text, tokens: Sequence[int], *, context: int, begins_with: int | None, most: int | None = None
) -> tuple[Window, ...]:
    """Cuts a text into windows of ``context`` tokens that do not overlap; what is left at the end is not used.

    The second half of each is scored, so that every token that counts has at least half a window before it.
    Where a model's texts begin with a token, it takes the place of a window's first.

    Args:
        text: Where the tokens are from, for messages.
        tokens: The text's tokens.
        context: Tokens in a window.
        begins_with: That token.
        most: Windows to use at most.

    Raises:
        InvalidValueError: The text has not as many tokens as one window, or ``most`` is below one.
    """
    if most is not None and most < 1:
        raise InvalidValueError("windows", most, "give at least 1")
    count = len(tokens) // context
    if not count:
        raise InvalidValueError(
            "text", text.name, f"it has {len(tokens)} tokens and a window {context}: give more text, or less context"
        )
    first = context // 2
    return tuple(
        Window(
            tokens=(
                *((begins_with,) if begins_with is not None else tokens[at : at + 1]),
                *tokens[at + 1 : at + context - 1],
            ),
            first=first,
            targets=tuple(tokens[at + first + 1 : at + context]),
        )
        for at in range(0, min(count, most or count) * context, context)
    )
