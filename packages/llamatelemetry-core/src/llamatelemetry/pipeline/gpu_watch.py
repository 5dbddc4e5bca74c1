"""What the GPUs do during a stage, if anybody measures them: known a moment after its end."""

from __future__ import annotations

import threading
from collections.abc import Callable

from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.gpu.account import Account
from llamatelemetry.gpu.enricher import facts_of
from llamatelemetry.gpu.ledger import GPULedger
from llamatelemetry.gpu.use import GPUUse
from llamatelemetry.inference.metering import PendingUse, Work, current_meter
from llamatelemetry.semconv.gpu import GPUFacts


class GPUWatch:
    """Watches all GPUs from its making until :meth:`close`, as ``gpu_section`` does.

    Args:
        on_known: Called once, after :meth:`close`: in it where nothing is measured, otherwise in the thread
            that measures.
    """

    def __init__(self, on_known: Callable[[GPUFacts | None], None]) -> None:
        self._on_known = on_known
        self._lock = threading.Lock()
        self._begun_ns = SYSTEM_CLOCK.monotonic_ns()
        self._ended_ns: int | None = None
        self._facts: GPUFacts | None = None
        self._told = False
        self._pending: PendingUse | None = None
        ledger = current_meter()
        if isinstance(ledger, GPULedger):
            self._pending = ledger.open(Account(self._work, section=True, on_done=self._tell))

    def close(self) -> None:
        """Ends it; what was seen follows."""
        with self._lock:
            self._ended_ns = SYSTEM_CLOCK.monotonic_ns()
            known = self._told or self._pending is None
        if known:
            self._on_known(self._facts)

    def facts(self, timeout_s: float | None = None) -> GPUFacts | None:
        """What was seen, once it is over; waits about one sampling period for it. None where nothing is measured.

        Args:
            timeout_s: Most seconds to wait; None takes about two sampling periods.
        """
        use = None if self._pending is None else self._pending.wait(timeout_s)
        return facts_of(use) if isinstance(use, GPUUse) else None

    def _work(self) -> Work:
        return Work(
            begun_ns=self._begun_ns,
            dispatched_ns=self._begun_ns,
            token_ns=(),
            prefill_tokens=None,
            ended_ns=self._ended_ns,
        )

    def _tell(self, use: GPUUse | None) -> None:
        with self._lock:
            self._facts = None if use is None else facts_of(use)
            self._told = True
            over = self._ended_ns is not None
        if over:
            self._on_known(self._facts)
