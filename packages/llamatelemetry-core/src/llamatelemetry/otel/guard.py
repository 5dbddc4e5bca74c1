"""What of ours fails while an application runs is ours alone: it is logged once, and the application goes on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def quietly(function: Callable[_P, _T]) -> Callable[_P, _T | None]:
    """The function, but that it returns None where it would raise; the first time is logged."""
    told = False

    @functools.wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        nonlocal told
        try:
            return function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the application called something else and is owed that
            if not told:
                told = True
                _log.warning("%s fails; what it sees is missing from telemetry", function.__qualname__, exc_info=True)
            return None

    return guarded
