"""Values of ``config.json``, each checked before anything relies on it.

The file comes with a download, so nothing in it is believed because of its key: a number has to be
one, in the range that a model can have, and whatever is not ends in a :class:`ModelFileError` that
names the key, the value and what would be right.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from llamatelemetry.errors import ModelFileError

MOST_SIZE: Final = 2**31
"""Sizes of a model past it are nonsense, and would not fit the integers of telemetry."""

_MOST_LETTERS: Final = 128

_T = TypeVar("_T")

_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class ConfigValues:
    """The values of one JSON object, by key.

    Args:
        path: Its file, for errors.
        values: What it holds.
        prefix: Keys of the objects around it, each followed by a dot.
        defaults: Whole numbers that count where a key is missing.
    """

    def __init__(
        self, path: Path, values: Mapping[str, Any], *, prefix: str = "", defaults: Mapping[str, int] | None = None
    ) -> None:
        self._path = path
        self._values = values
        self._prefix = prefix
        self._defaults = defaults or {}

    def with_defaults(self, defaults: Mapping[str, int]) -> ConfigValues:
        """The same values, with whole numbers that count where a key is missing."""
        return ConfigValues(self._path, self._values, prefix=self._prefix, defaults=defaults)

    def refused(self, key: str, fix: str) -> ModelFileError:
        """The error for a value that cannot be used."""
        shown = _short.repr(self._values.get(key))
        return ModelFileError(self._path, f"{self._prefix}{key}={shown} is not valid: {fix}")

    def size(self, key: str, most: int = MOST_SIZE, *, least: int = 1) -> int | None:
        """A whole number in a range, or None. A null is None even where there is a default."""
        value: int | None = self._values.get(key) if key in self._values else self._defaults.get(key)
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise self.refused(key, f"it must be a whole number from {least} to {most}")
        return value

    def needed(self, key: str, most: int = MOST_SIZE) -> int:
        """As :meth:`size`, of a number that there has to be."""
        value = self.size(key, most)
        if value is None:
            raise ModelFileError(self._path, f"has no {self._prefix}{key}, which a language model needs")
        return value

    def largest(self, key: str) -> int | None:
        """A whole number, or the largest where there is a list with one for each layer."""
        if not isinstance(self._values.get(key), list):
            return self.size(key)
        sizes = self.whole_numbers(key)
        if not sizes or not all(0 < size <= MOST_SIZE for size in sizes):
            raise self.refused(key, f"its items must be whole numbers from 1 to {MOST_SIZE}")
        return max(sizes)

    def flag(self, key: str) -> bool | None:
        """True, false or None."""
        return self._typed(key, bool, "it must be true or false")

    def text(self, key: str) -> str | None:
        """A short text, or None; None for an empty one too."""
        value = self._typed(key, str, "it must be text")
        if value is not None and not _is_short(value):
            raise self.refused(key, f"it must be printable text of at most {_MOST_LETTERS} letters")
        return value or None

    def texts(self, key: str) -> list[str]:
        """A list of texts; an empty one where there is none."""
        values = self._list(key, str, "it must be a list of texts")
        if not all(_is_short(value) for value in values):
            raise self.refused(key, f"its items must be printable texts of at most {_MOST_LETTERS} letters")
        return values

    def whole_numbers(self, key: str) -> list[int]:
        """A list of whole numbers; an empty one where there is none."""
        return self._list(key, int, "it must be a list of whole numbers")

    def nested(self, key: str) -> ConfigValues | None:
        """An object inside this one, or None."""
        value: dict[str, Any] | None = self._typed(key, dict, "it must be an object")
        return None if value is None else ConfigValues(self._path, value, prefix=f"{self._prefix}{key}.")

    def _list(self, key: str, kind: type[_T], fix: str) -> list[_T]:
        value: list[Any] = self._typed(key, list, fix) or []
        if any(type(item) is not kind for item in value):
            raise self.refused(key, fix)
        return value

    def _typed(self, key: str, kind: type[_T], fix: str) -> _T | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, kind):
            raise self.refused(key, fix)
        return value


def _is_short(text: str) -> bool:
    return len(text) <= _MOST_LETTERS and text.isprintable()
