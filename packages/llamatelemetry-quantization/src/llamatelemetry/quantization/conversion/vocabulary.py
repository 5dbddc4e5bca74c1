"""The tokens of a model, and how texts become them: what every kind of tokenizer comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError

__all__ = ["Added", "Kind", "Vocabulary", "added_tokens", "encoded", "looks_special"]

_WIDE_BAR: Final = "\uff5c"
"""What DeepSeek writes where others write ``|``."""


class Kind(IntEnum):
    """What a token is to llama.cpp, as its files say it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A tokenizer, as a GGUF file has it.

    Attributes:
        model: ``gpt2`` for byte-level BPE, ``llama`` for sentencepiece.
        pre: llama.cpp's name for how texts are cut first.
        tokens: The tokens' texts, by their numbers.
        kinds: What each is.
        scores: With sentencepiece, which pair is merged first: that of the highest.
        merges: With byte-level BPE, the pairs in the order in which they are merged.
        space_prefix: Whether a text gets a space before it; None where the model never does that.
    """

    model: str
    pre: str
    tokens: tuple[bytes, ...]
    kinds: tuple[Kind, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[bytes, ...] = ()
    space_prefix: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A token that was added to a tokenizer, and that texts are searched for.

    Attributes:
        number: Its number.
        content: Its text.
        special: Whether it is no text but a mark, such as the end of a turn.
    """

    number: int
    content: str
    special: bool

    @property
    def kind(self) -> Kind:
        """What it is to llama.cpp."""
        return Kind.CONTROL if self.special or looks_special(self.content) else Kind.USER_DEFINED

    def stored(self, path: Path) -> bytes:
        """Its text in a GGUF file, where the spaces of texts to search for are spaces."""
        text = self.content if self.kind is Kind.CONTROL else self.content.replace("▁", " ")
        return encoded(path, text)


def added_tokens(path: Path, tokenizer: Mapping[str, Any]) -> tuple[Added, ...]:
    """The added tokens of a ``tokenizer.json``.

    Raises:
        ModelFileError: One of them is not described.
    """
    found = tokenizer.get("added_tokens") or []
    if not isinstance(found, list):
        raise ModelFileError(path, "its added_tokens are no list")
    return tuple(_added(path, entry) for entry in found)


def _added(path: Path, entry: Any) -> Added:
    match entry:
        case {"id": int() as number, "content": str() as content} if number >= 0:
            return Added(number=number, content=content, special=entry.get("special") is True)
        case _:
            raise ModelFileError(path, f"has an added token without id and content: {repr(entry)[:100]}")


def looks_special(text: str) -> bool:
    """Whether a token is a mark by its looks: some models do not say so of theirs, and llama.cpp must know."""
    return (
        text in {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
        or (text.startswith(("<|", f"<{_WIDE_BAR}")) and text.endswith(("|>", f"{_WIDE_BAR}>")))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def encoded(path: Path, text: str) -> bytes:
    """A text in UTF-8.

    Raises:
        ModelFileError: It has half of a surrogate pair in it, which JSON allows and UTF-8 does not.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ModelFileError(path, f"has a text that is no Unicode: {text[:100]!r}") from error
