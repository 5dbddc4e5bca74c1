"""GPU figures of any piece of a user's code, as a span: ``with gpu_section("embed documents"):``.

A section watches the devices and competes with no request: its energy is what the devices drew above
idle while it ran, whoever used them. Its span ends when its figures are known, a moment after the
code has gone on, and with the time at which the code ended.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.gpu.account import Account
from llamatelemetry.gpu.enricher import facts_of
from llamatelemetry.gpu.ledger import GPULedger
from llamatelemetry.gpu.use import GPUUse
from llamatelemetry.inference.metering import PendingUse, Work, current_meter
from llamatelemetry.semconv.gpu import gpu_section_attributes

_P = ParamSpec("_P")
_R = TypeVar("_R")


class gpu_section:  # noqa: N801 - used as a keyword would be, like contextlib's
    """A span with what the GPUs did meanwhile. A context manager, and a decorator of functions.

    Without a GPU, or before ``init()``, it is a span like any other. It may be entered again, also inside
    itself, and each time is a span of its own; threads and tasks that run at the same time take one each.

    Args:
        name: The span's name.
        attributes: Its attributes.

    Raises:
        InvalidValueError: It decorates a generator function, whose body runs in pieces.
    """

    def __init__(self, name: str, attributes: Mapping[str, str | bool | int | float] | None = None) -> None:
        self._name = name
        self._attributes = attributes
        self._open: list[_Entered] = []
        self._latest: _Entered | None = None

    def __enter__(self) -> Self:
        self._latest = _Entered(self._name, self._attributes)
        self._open.append(self._latest)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.pop().leave(error)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Makes every call of a function, or of a coroutine function, a section."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            name = getattr(function, "__qualname__", function)
            raise InvalidValueError("gpu_section", name, "decorate a function that is no generator, or use `with`")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: _P.args, **kwargs: _P.kwargs) -> object:
                with gpu_section(self._name, self._attributes):
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]  # the same coroutine function, as its caller sees it

        @functools.wraps(function)
        def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with gpu_section(self._name, self._attributes):
                return function(*args, **kwargs)

        return called

    def use(self, timeout_s: float | None = None) -> GPUUse | None:
        """What the GPUs did, once the section is over; waits about one sampling period for it.

        Of a section that is entered several times it is what they did since it was entered last.

        Args:
            timeout_s: Most seconds to wait; None takes about two sampling periods.

        Returns:
            None where nothing is measured.
        """
        return None if self._latest is None else self._latest.use(timeout_s)


class _Entered:
    """A section from when it is entered until its figures are told."""

    def __init__(self, name: str, attributes: Mapping[str, str | bool | int | float] | None) -> None:
        self._lock = threading.Lock()
        self._told = False
        self._ended_ns: int | None = None
        self._end_time_ns: int | None = None
        self._pending: PendingUse | None = None
        tracer = trace.get_tracer("llamatelemetry", version("llamatelemetry-core"))
        self._span = tracer.start_span(name, attributes=attributes)
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        self._begun_ns = SYSTEM_CLOCK.monotonic_ns()
        ledger = current_meter()
        if isinstance(ledger, GPULedger):
            self._pending = ledger.open(Account(self._work, section=True, on_done=self._tell))

    def leave(self, error: BaseException | None) -> None:
        """Notes the end, and ends the span if its figures are told already or never will be."""
        otel_context.detach(self._token)
        if error is not None:
            self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        with self._lock:
            self._end_time_ns = SYSTEM_CLOCK.time_ns()
            self._ended_ns = SYSTEM_CLOCK.monotonic_ns()
            over = self._told or self._pending is None
        if over:
            self._span.end(self._end_time_ns)

    def use(self, timeout_s: float | None) -> GPUUse | None:
        """What the GPUs did; None where nothing is measured."""
        use = None if self._pending is None else self._pending.wait(timeout_s)
        return use if isinstance(use, GPUUse) else None

    def _work(self) -> Work:
        return Work(
            begun_ns=self._begun_ns,
            dispatched_ns=self._begun_ns,
            token_ns=(),
            prefill_tokens=None,
            ended_ns=self._ended_ns,
        )

    def _tell(self, use: GPUUse | None) -> None:
        """Called once by the ledger: after the end, or before it if measuring ends first."""
        if use is not None:
            self._span.set_attributes(gpu_section_attributes(facts_of(use)))
        with self._lock:
            self._told = True
            over = self._ended_ns is not None
        if over:
            self._span.end(self._end_time_ns)
