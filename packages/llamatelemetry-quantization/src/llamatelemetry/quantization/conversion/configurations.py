"""The configurations that stand beside weights: of the model, of its tokenizer, and its chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llamatelemetry.untrusted.json_values import read_object

__all__ = ["MOST_BYTES", "read_configuration"]

MOST_BYTES: Final = 2**22
"""Those of real models have a few kilobytes, with a chat template a few hundred, with many added tokens a megabyte."""
_MOST_VALUES: Final = 2**18


def read_configuration(path: Path) -> dict[str, Any]:
    """The object that such a file holds.

    Raises:
        ModelFileError: It cannot be read, has more than :data:`MOST_BYTES`, or is not a JSON object.
    """
    return read_object(path, most_bytes=MOST_BYTES, most_values=_MOST_VALUES)
