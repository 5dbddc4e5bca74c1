"""A meter provider whose forked children measure themselves.

The SDK's gives a child an instance id of its own and leaves it all that the parent has counted. Whoever
adds up the instances then counts that once for each process; and a lock that a thread of the parent held
when it was forked is held in the child for ever.
"""

from __future__ import annotations

import threading
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider

from llamatelemetry.forks import after_fork


class OwnMeterProvider(MeterProvider):
    """The SDK's meter provider, but that a forked child begins to count from nothing. Takes what that takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        after_fork(self._forget_parents)

    def _forget_parents(self) -> None:
        # Private: the SDK knows no way to begin anew but to shut a reader down. Instruments find what is
        # theirs in these mappings at each measurement, and make it where it is missing, with locks of its own.
        consumer: Any = self._measurement_consumer
        consumer._lock = threading.Lock()  # noqa: SLF001
        for storage in consumer._reader_storages.values():  # noqa: SLF001
            storage._lock = threading.RLock()  # noqa: SLF001
            storage._instrument_view_instrument_matches = {}  # noqa: SLF001
