"""One of the engine's backends: what it is, which slots are its, and whether it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Literal

from llamatelemetry.backends.protocol import Backend, ModelInfo, Restartable
from llamatelemetry.errors import BackendError

LaneState = Literal["up", "restarting", "down"]

PAGE_SIZE: Final = 64
"""Tokens in a page of KV cache, in the engine's books about a backend that has no pages."""

_PROBE_S: Final = 0.5
_RECOVERY_S: Final = 30.0
"""A server that is not ours is waited for so long."""


def page_size_of(model: ModelInfo) -> int:
    """Tokens in a page of the engine's books about a backend's KV cache: the backend's own, if it has pages."""
    return model.kv_page_size or PAGE_SIZE


class Lane:
    """A backend behind the engine. Thread-safe.

    Args:
        backend: The backend, opened.
        info: What it says of itself.
        index: Its place among the engine's backends.
        first_slot: The engine's number of its slot 0.
    """

    def __init__(self, backend: Backend, info: ModelInfo, *, index: int, first_slot: int) -> None:
        self.backend: Final = backend
        self.info: ModelInfo = info
        self.index: Final = index
        self.first_slot: Final = first_slot
        self.state: LaneState = "up"
        self._served_since_start = True
        self._lock = threading.Lock()

    @property
    def slots(self) -> range:
        """The engine's numbers of its slots."""
        return range(self.first_slot, self.first_slot + self.info.slots)

    def is_gone(self) -> bool:
        """Whether the runtime behind it is not there. May take the time of one small request."""
        return self.state != "up" or (isinstance(self.backend, Restartable) and not self.backend.alive())

    def served(self) -> None:
        """Notes an answer: a later death is a new one, and not the last restart's failure."""
        self._served_since_start = True

    def begin_restart(self) -> bool:
        """Takes it out of service; True for the one caller who shall call :meth:`restart`."""
        with self._lock:
            if self.state != "up":
                return False
            self.state = "restarting"
            return True

    def restart(self, is_closing: Callable[[], bool]) -> Exception | None:
        """Brings it back into service; returns why that failed, and never raises: requests wait for its end.

        A server of ours is started once, and not again unless it served since. Another's is looked
        for until it answers, for :data:`_RECOVERY_S` at most.
        """
        error: Exception = BackendError("the backend died again before it served anything")
        deadline = time.monotonic() + _RECOVERY_S
        backend = self.backend
        while isinstance(backend, Restartable) and self._served_since_start and not is_closing():
            try:
                self.info = backend.restart()
            except Exception as raised:  # noqa: BLE001 - the model file may be gone; a plugin's backend may raise anything
                error = raised
                if self.info.owned or time.monotonic() > deadline:
                    break
                time.sleep(_PROBE_S)
                continue
            self._served_since_start = False
            self.state = "up"
            return None
        self.state = "down"
        return error
