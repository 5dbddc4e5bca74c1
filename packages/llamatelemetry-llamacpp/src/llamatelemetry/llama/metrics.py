"""What a llama-server counts itself, as OpenTelemetry instruments.

Readers may collect as often as they like: the server is asked at most once per interval, because
every question competes with its generations. Counters are taken from ``/metrics``; its gauges of
speed are not, because they start anew with every scrape.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Self

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import InvalidValueError, NotSupportedError
from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.semconv.metrics import Instrument, model_metric_attributes
from llamatelemetry.semconv.server_metrics import PROMETHEUS_METRICS, SLOTS_BUSY, SLOTS_LIMIT

MIN_INTERVAL_S: Final = 2.0
"""Shortest time between two questions to the server; a faster poll starves its other work."""

_SCOPE: Final = "llamatelemetry.llama"
_PREFIX: Final = "llamacpp:"
_PATIENCE_S: Final = 1.0
_NOTHING: Final[Mapping[Instrument, float]] = MappingProxyType({})
_logger = logging.getLogger(__name__)


class LlamaServerMetrics:
    """Observes one server until :meth:`close`. Never raises once it is made, and starts no thread.

    Args:
        client: Asks the server; stays the caller's to close.
        model: Model name on every figure.
        interval_s: Shortest time between two questions, in seconds; at least 2.
        meter: Makes the instruments; None takes the global one.
        clock: Source of time.

    Raises:
        InvalidValueError: ``interval_s`` is too short.
    """

    def __init__(
        self,
        client: LlamaClient,
        *,
        model: str,
        interval_s: float = MIN_INTERVAL_S,
        meter: Meter | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if interval_s < MIN_INTERVAL_S:
            raise InvalidValueError("interval_s", interval_s, f"give at least {MIN_INTERVAL_S:g} seconds")
        self._client = client
        self._interval_ns = round(interval_s * 1e9)
        self._now_ns = clock.monotonic_ns
        self._lock = threading.Lock()
        self._asked_ns: int | None = None
        self._latest = _NOTHING
        self._unsupported: set[str] = set()
        self.attributes: Final = MappingProxyType(
            model_metric_attributes(
                provider="llamacpp", model=model, server_address=client.host, server_port=client.port
            )
        )
        with _running_lock:
            _running.append(self)
        _make_instruments(get_meter(_SCOPE) if meter is None else meter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the observation; idempotent."""
        with _running_lock:
            if self in _running:
                _running.remove(self)

    def latest(self) -> Mapping[Instrument, float]:
        """The figures by instrument, at most one interval old; empty while the server cannot be asked."""
        with self._lock:
            now = self._now_ns()
            if self._asked_ns is None or now - self._asked_ns >= self._interval_ns:
                self._asked_ns = now
                self._latest = MappingProxyType(
                    {**self._ask("/metrics", self._counters), **self._ask("/slots", self._slots)}
                )
            return self._latest

    def _ask(self, path: str, question: Callable[[], Mapping[Instrument, float]]) -> Mapping[Instrument, float]:
        if path in self._unsupported:
            return _NOTHING
        try:
            return question()
        except NotSupportedError as error:
            self._unsupported.add(path)
            _logger.warning("no figures from %s of %s: %s", path, self._client.address, error)
        except Exception as error:  # noqa: BLE001 - telemetry may lose figures, never break its application
            _logger.debug("no figures from %s of %s: %s", path, self._client.address, error)
        return _NOTHING

    def _counters(self) -> Mapping[Instrument, float]:
        found = {}
        for name, value in self._client.metrics(timeout_s=_PATIENCE_S).items():
            row = PROMETHEUS_METRICS.get(name.removeprefix(_PREFIX))
            if row is not None:
                whole = row.kind != "observable_gauge" and row.unit != "s"
                found[row] = int(value) if whole else value
        return found

    def _slots(self) -> Mapping[Instrument, float]:
        slots = self._client.slots(timeout_s=_PATIENCE_S)
        return {SLOTS_BUSY: sum(slot.processing for slot in slots), SLOTS_LIMIT: len(slots)}


# Instruments exist once per meter, however many servers are observed: an SDK ignores the callbacks
# of an instrument made again. So the callbacks ask all servers.
_running: list[LlamaServerMetrics] = []
_running_lock = threading.Lock()


def _make_instruments(meter: Meter) -> None:
    make = {
        "observable_counter": meter.create_observable_counter,
        "observable_up_down_counter": meter.create_observable_up_down_counter,
        "observable_gauge": meter.create_observable_gauge,
    }
    for row in (*PROMETHEUS_METRICS.values(), SLOTS_BUSY, SLOTS_LIMIT):
        make[row.kind](row.name, [_observer(row)], row.unit, row.brief)


def _observer(row: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        with _running_lock:
            servers = tuple(_running)
        for server in servers:
            value = server.latest().get(row)
            if value is not None:
                yield Observation(value, server.attributes)

    return observe
