"""Somebody who listens to the GPU sampler, and whose failures are nobody else's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from llamatelemetry.gpu.snapshot import Tick

FAILURES_IN_A_ROW: Final = 10
"""So often may a listener raise, one round after the other, before it is told no more."""

_log = logging.getLogger(__name__)


class Subscription:
    """A listener of a sampler, until it is closed; as a context manager it closes itself.

    Args:
        on_tick: Called with each round; None for one who only looks at what was sampled.
        on_close: Called with the subscription when it is closed.
    """

    def __init__(self, on_tick: Callable[[Tick], None] | None, on_close: Callable[[Subscription], None]) -> None:
        self._on_tick = on_tick
        self._on_close = on_close
        self._failures = 0
        self._is_known_to_fail = False

    def hand(self, tick: Tick) -> None:
        """Tells the listener of a round. What it raises is logged once; raising ten times in a row ends it.

        One failure does not: a ledger that stopped at its first would lose all energy from then on.
        """
        if (on_tick := self._on_tick) is None:
            return
        try:
            on_tick(tick)
            self._failures = 0
        except Exception as error:  # noqa: BLE001 - a listener must not silence the others
            self._fail(error)

    def close(self) -> None:
        """Ends it; the last one that ends stops the sampler. Again is harmless."""
        self._on_tick = None
        self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        if not self._is_known_to_fail:
            self._is_known_to_fail = True
            _log.warning("a listener of the GPU sampler raised; it is told of further rounds", exc_info=error)
        if self._failures == FAILURES_IN_A_ROW:
            self._on_tick = None
            _log.warning("a listener of the GPU sampler raised %d times in a row: it is told no more", self._failures)
