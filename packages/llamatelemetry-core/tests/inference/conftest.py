"""Backends whose course a test decides: they wait at a gate, fail as told, die and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.protocol import ModelInfo, Placement, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import BackendConnectionError, BackendError, BackendStartError
from llamatelemetry.inference.record import FinishedRecord, Opening
from llamatelemetry.inference.sink import install_sink


class GatedBackend(EchoBackend):
    """An echo that starts nothing before its gate is open, and notes the order it was asked in."""

    def __init__(self, slots: int = 1, script: EchoScript | None = None) -> None:
        super().__init__(script or EchoScript(tokens=["a"]), slots=slots)
        self.gate = threading.Event()
        self.order: list[str] = []

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        self.order.append(request.request_id)
        assert self.gate.wait(10)
        yield from super().stream(request, placement)


class FailingBackend(EchoBackend):
    """An echo that raises what it is given, one error a try, and answers once there are none left."""

    def __init__(self, *failures: BackendError, after_tokens: int = 0, slots: int = 1) -> None:
        super().__init__(EchoScript(tokens=["a", "b"]), slots=slots)
        self._failures = list(failures)
        self._after_tokens = after_tokens
        self.tries = 0

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        self.tries += 1
        for _ in range(self._after_tokens):
            yield TokenDelta("x")
        if self._failures:
            raise self._failures.pop(0)
        yield from super().stream(request, placement)


class MortalBackend(EchoBackend):
    """An echo whose runtime can be killed: all its streams break, and nothing runs before it is restarted."""

    def __init__(
        self,
        slots: int = 2,
        *,
        script: EchoScript | None = None,
        restarts: int = 0,
        failure: Exception | None = None,
    ) -> None:
        super().__init__(script or EchoScript(tokens=["t"] * 20, prefill_s=0.02, per_token_s=0.005), slots=slots)
        self._restarts = restarts
        self._failure = failure or BackendStartError("it does not start any more")
        self._alive = True
        self.served = 0
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def kill(self) -> None:
        self._alive = False

    def alive(self) -> bool:
        return self._alive

    def restart(self) -> ModelInfo:
        if self._restarts < 1:
            raise self._failure
        self._restarts -= 1
        time.sleep(0.05)
        self._alive = True
        return self.open()

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            for item in super().stream(request, placement):
                if not self._alive:
                    raise BackendConnectionError("echo", "it was killed")
                self.served += isinstance(item, StreamEnd)
                yield item
        finally:
            with self._lock:
                self.running -= 1


class KeptTrace:
    trace_id = "0" * 31 + "1"
    traceparent = None

    def __init__(self, records: list[FinishedRecord]) -> None:
        self._records = records

    def active(self):
        return nullcontext()

    def finish_later(self, make: Callable[[], FinishedRecord]) -> None:
        self.finish(make())

    def finish(self, record: FinishedRecord) -> None:
        self._records.append(record)


class KeepingSink:
    """Keeps what the engine hands over."""

    def __init__(self) -> None:
        self.records: list[FinishedRecord] = []
        self.openings: list[Opening] = []

    def begin(self, opening: Opening) -> KeptTrace:
        self.openings.append(opening)
        return KeptTrace(self.records)


@pytest.fixture
def sink() -> Iterator[KeepingSink]:
    keeping = KeepingSink()
    install_sink(keeping)
    yield keeping
    install_sink(None)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], bool]:
    """Waits, ten seconds at most, until a condition holds."""

    def wait(condition: Callable[[], bool]) -> bool:
        limit = time.monotonic() + 10
        while not condition() and time.monotonic() < limit:
            time.sleep(0.005)
        return condition()

    return wait


@pytest.fixture
def gated() -> type[GatedBackend]:
    return GatedBackend


@pytest.fixture
def failing() -> type[FailingBackend]:
    return FailingBackend


@pytest.fixture
def mortal() -> type[MortalBackend]:
    return MortalBackend
