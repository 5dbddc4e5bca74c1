"""What NVML counts in its own way: field values, bytes over NVLinks, Xid events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ctypes import byref
from typing import Any, Final

from llamatelemetry.gpu.nvml_calls import bound, field_value
from llamatelemetry.gpu.nvml_questions import Code, Way

_NVLINK_COUNT: Final = 91
_NVLINK_DATA_KIB: Final = (138, 139)
"""Field ids of what a link sent and received, in KiB: up to Hopper."""
_NVLINK_BYTES: Final = (202, 204)
"""The same in bytes: from Blackwell on."""
_BYTES_PER_KIB: Final = 1024
_XID: Final = 0x8
_EVENTS_PER_POLL: Final = 256
"""Events taken at once: a device that fails faster than this is not counted for ever in one call."""


class NvlinkCounters:
    """Bytes over all NVLinks of a device."""

    def __init__(self, binding: Any, handle: Any) -> None:
        self._binding = binding
        self._handle = handle
        self._links: int | None = None

    def ways(self) -> tuple[Way, ...]:
        """Ways to ask for (sent, received)."""
        return (
            ("nvmlDeviceGetFieldValues(NVLINK_THROUGHPUT)", lambda: self._total(_NVLINK_DATA_KIB, _BYTES_PER_KIB)),
            ("nvmlDeviceGetFieldValues(NVLINK_COUNT)", lambda: self._total(_NVLINK_BYTES, 1)),
        )

    def _total(self, fields: tuple[int, int], unit_bytes: int) -> tuple[int, int]:
        if self._links is None:
            (answer,) = self._binding.nvmlDeviceGetFieldValues(self._handle, [_NVLINK_COUNT])
            self._links = field_value(self._binding, answer)
        if not self._links:
            raise self._binding.NVMLError(Code.NOT_SUPPORTED)
        asked = [(field_id, link) for field_id in fields for link in range(self._links)]
        answers = self._binding.nvmlDeviceGetFieldValues(self._handle, asked)
        # A link that is down has no counter, and the others count all the same.
        up = [answer for answer in answers if answer.nvmlReturn == Code.SUCCESS]
        if not up:
            raise self._binding.NVMLError(answers[0].nvmlReturn)
        sent, received = (
            sum(field_value(self._binding, answer) for answer in up if answer.fieldId == field_id) * unit_bytes
            for field_id in fields
        )
        return sent, received


class XidCounter:
    """Counts a device's Xid events, which is how the driver reports errors, from its first poll on.

    Attributes:
        total: Events counted.
    """

    def __init__(self, binding: Any, handle: Any, total: int) -> None:
        self.total: int = total
        self._binding = binding
        self._handle = handle
        self._events: Any = None
        self._take: Callable[[], int]

    def count(self) -> int:
        """Takes the events that wait, and returns how many there were in all.

        Raises:
            NVMLError: The device tells no events.
        """
        if self._events is None:
            events = self._binding.nvmlEventSetCreate()
            try:
                self._binding.nvmlDeviceRegisterEvents(self._handle, _XID, events)
            except Exception:
                self._free(events)
                raise
            self._events = events
            event = byref(self._binding.c_nvmlEventData_t())
            self._take = bound(self._binding, "nvmlEventSetWait_v2", events, event, 0)
        for _ in range(_EVENTS_PER_POLL):
            code = self._take()
            if code == Code.TIMEOUT:  # Which is how "nothing waits" is said.
                break
            if code != Code.SUCCESS:
                raise self._binding.NVMLError(code)
            self.total += 1
        return self.total

    def close(self) -> None:
        """Lets go of the event set."""
        if self._events is not None:
            self._free(self._events)
            self._events = None

    def _free(self, events: Any) -> None:
        with contextlib.suppress(Exception):
            self._binding.nvmlEventSetFree(events)
