"""Single values of a ``config.json``, each held to what it may be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError

__all__ = ["ConfigValues"]

_MOST: Final = 2**31 - 1


class ConfigValues:
    """What one object of a configuration says. A value that is null is not there.

    Args:
        path: The file, for errors.
        values: The object.
        place: Where in the file it stands, as ``rope_scaling.``.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], place: str = "") -> None:
        self.path = path
        self._values = values
        self._place = place

    def has(self, key: str) -> bool:
        """Whether it says anything of it."""
        return self._values.get(key) is not None

    def whole(self, key: str, default: int | None = None, *, least: int = 1, most: int = _MOST) -> int:
        """A whole number.

        Raises:
            ModelFileError: It is not there and has no default, or is none of the range.
        """
        value = self._values.get(key)
        value = default if value is None else value
        if type(value) is not int or not least <= value <= most:
            raise self.refused(key, f"a whole number from {least} to {most} is needed")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            ModelFileError: It is not there and has no default, or is none.
        """
        value = self._values.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
            raise self.refused(key, "a number is needed")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Whether something is so.

        Raises:
            ModelFileError: It is neither true nor false.
        """
        value = self._values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.refused(key, "true or false is needed")
        return value

    def text(self, key: str, default: str = "") -> str:
        """A text.

        Raises:
            ModelFileError: It is none.
        """
        value = self._values.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.refused(key, "a text is needed")
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """A list of that many numbers.

        Raises:
            ModelFileError: It is none.
        """
        found = self._values.get(key)
        if (
            not isinstance(found, list)
            or len(found) != count
            or not all(type(each) in {int, float} and abs(each) < 1e30 for each in found)
        ):
            raise self.refused(key, f"a list of {count} numbers is needed")
        return [float(each) for each in found]

    def texts(self, key: str) -> list[str]:
        """A list of texts, empty where it is not there.

        Raises:
            ModelFileError: It is none.
        """
        found = self._values.get(key)
        found = [] if found is None else found
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise self.refused(key, "a list of texts is needed")
        return found

    def nested(self, key: str) -> ConfigValues:
        """An object in it, empty where it is not there.

        Raises:
            ModelFileError: It is none.
        """
        found = self._values.get(key)
        found = {} if found is None else found
        if not isinstance(found, dict):
            raise self.refused(key, "an object is needed")
        return ConfigValues(self.path, found, f"{self._place}{key}.")

    def refused(self, key: str, fix: str) -> ModelFileError:
        """The error for a value that cannot be used."""
        shown = repr(self._values.get(key))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return ModelFileError(self.path, f"says {self._place}{key}={shown}: {fix}")
