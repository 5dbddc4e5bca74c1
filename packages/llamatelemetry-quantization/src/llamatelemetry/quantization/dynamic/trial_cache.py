"""What was measured once, kept by what it was measured of: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import ModelFileError

__all__ = ["TrialCache"]

_FORMAT: Final = "llamatelemetry.divergences"
_MOST_BYTES: Final = 64 << 20


class TrialCache:
    """Divergences by the digest of all that decides them, in a JSON file that is whole at any time.

    Args:
        path: The file, which need not be there yet; None to keep nothing.

    Raises:
        ModelFileError: It is there and something else, or cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        if path is not None and path.exists():
            self._known = _read(path)

    def get(self, facts: Mapping[str, Any]) -> float | None:
        """What was measured of that, if it was."""
        return self._known.get(_key(facts))

    def put(self, facts: Mapping[str, Any], divergence: float) -> None:
        """Keeps what was measured.

        Raises:
            ModelFileError: The file cannot be written.
        """
        self._known[_key(facts)] = divergence
        if self._path is None:
            return
        temporary = self._path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_text(json.dumps({"format": _FORMAT, "measured": self._known}, indent=1, sort_keys=True))
            temporary.replace(self._path)
        except OSError as error:
            raise ModelFileError(self._path, f"cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _read(path: Path) -> dict[str, float]:
    wrong = ModelFileError(path, "is no record of measurements; name another file, or remove this one")
    try:
        if os.stat(path).st_size > _MOST_BYTES:  # noqa: PTH116  Of whatever kind it is.
            raise wrong
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise wrong from error
    measured = found.get("measured") if isinstance(found, dict) and found.get("format") == _FORMAT else None
    if not isinstance(measured, dict) or not all(map(_is_finite, measured.values())):
        raise wrong
    return measured
