"""From tokens to text while they come: whole characters, in order, and nothing of a stop string.

A token is not a text: a character may take several, and what a token reads as may depend on the one
before it. And an answer that must end before a certain string cannot be passed on up to its last
letter, because that may be the string's first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no character, or none yet."""

_MOST_UNFINISHED: Final = 3
"""A character has four bytes at most, so that at most so many at the end may still become one."""


class Detokenizer:
    """Turns tokens into text, one by one. What it returns, put together, is what decoding them all at once gives.

    Only the last tokens are decoded for each: from the place where the text before the latest one
    was whole, because some tokenizers write a token differently at the beginning of a text. Where tokens
    without one, such as special ones, are in between, that is from before them.

    Args:
        decode: The tokenizer's decoder.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        # Tokens from _start on are decoded; of their text so much was returned, and it was whole at _whole.
        self._start = 0
        self._whole = 0
        self._returned = 0

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that is certain now, which may be none."""
        self._tokens.append(token)
        text = self._decode(self._tokens[self._start :])
        unfinished = len(text) - len(text.rstrip(_UNFINISHED))
        certain = len(text) - min(unfinished, _MOST_UNFINISHED)
        new = text[self._returned : certain]
        self._returned = max(self._returned, certain)
        if not unfinished and (last := self._decode(self._tokens[self._whole :])):
            self._start, self._whole = self._whole, len(self._tokens)
            self._returned = len(last)
        return new

    def flush(self) -> str:
        """The rest, once no more tokens come: what stayed unfinished is written as the decoder writes it."""
        text = self._decode(self._tokens[self._start :])
        new, self._returned = text[self._returned :], len(text)
        return new


class StopStrings:
    """Passes text on up to the first stop string, whose letters are held back until it is clear what they are.

    The one that is complete first counts, and of two that are complete at the same letter the longer,
    however the text is cut into pieces.

    Args:
        stops: The strings; empty ones are none.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted({stop for stop in stops if stop}, key=len, reverse=True)
        self._held = ""
        self.stopped: bool = False

    def push(self, text: str) -> str:
        """Takes the next text and returns what may be passed on; none once it has stopped."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stops if stop in text]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Letters at the end of a text that are the beginning of a stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
