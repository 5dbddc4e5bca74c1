"""The global meter provider that stays, as :mod:`.standing` does for tracers and loggers.

Instruments are made once and kept, callbacks included, so each is a relay too: it is made anew
from each provider that its meter is led to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any, TypeVar

from opentelemetry.metrics import (
    CallbackT,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
    _Gauge,  # The API's own spelling of its synchronous gauge.
)
from opentelemetry.util.types import Attributes

from llamatelemetry.otel.standing import Relays


class StandingMeterProvider(MeterProvider):
    """The global meter provider. What it has beyond the API is the SDK provider's of the moment."""

    def __init__(self) -> None:
        self._relays: Relays[MeterProvider, _MeterRelay] = Relays(NoOpMeterProvider(), _MeterRelay)

    def lead_to(self, provider: MeterProvider) -> None:
        """Makes ``provider`` the one of the moment."""
        self._relays.lead_to(provider)

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Meter:
        """A meter that always leads to the provider of the moment."""
        return self._relays.get(name, version, schema_url, attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_relays"].provider, name)


class _InstrumentRelay:
    def __init__(self, make: Callable[[Meter], Any]) -> None:
        self._make = make
        self._real: Any = None

    def lead_to(self, meter: Meter) -> None:
        self._real = self._make(meter)


class _CounterRelay(_InstrumentRelay, Counter):
    def add(self, *args: Any, **kwargs: Any) -> None:
        self._real.add(*args, **kwargs)


class _UpDownCounterRelay(_InstrumentRelay, UpDownCounter):
    def add(self, *args: Any, **kwargs: Any) -> None:
        self._real.add(*args, **kwargs)


class _HistogramRelay(_InstrumentRelay, Histogram):
    def record(self, *args: Any, **kwargs: Any) -> None:
        self._real.record(*args, **kwargs)


class _GaugeRelay(_InstrumentRelay, _Gauge):
    def set(self, *args: Any, **kwargs: Any) -> None:
        self._real.set(*args, **kwargs)


class _ObservableCounterRelay(_InstrumentRelay, ObservableCounter):
    pass


class _ObservableUpDownCounterRelay(_InstrumentRelay, ObservableUpDownCounter):
    pass


class _ObservableGaugeRelay(_InstrumentRelay, ObservableGauge):
    pass


_I = TypeVar("_I", bound=_InstrumentRelay)


class _MeterRelay(Meter):
    def __init__(self, name: str, version: str | None, schema_url: str | None, attributes: Attributes) -> None:
        super().__init__(name, version, schema_url)
        self._scope = (name, version, schema_url, attributes)
        self._lock = threading.Lock()
        self._instruments: dict[tuple[type, str, str, str], Any] = {}
        self._meter: Meter = NoOpMeterProvider().get_meter(name)

    def lead_to(self, provider: MeterProvider) -> None:
        with self._lock:
            self._meter = provider.get_meter(*self._scope)
            for instrument in self._instruments.values():
                instrument.lead_to(self._meter)

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        make = methodcaller("create_counter", name, unit, description)
        return self._keep(_CounterRelay(make), name, unit, description)

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> UpDownCounter:
        make = methodcaller("create_up_down_counter", name, unit, description)
        return self._keep(_UpDownCounterRelay(make), name, unit, description)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> _Gauge:
        make = methodcaller("create_gauge", name, unit, description)
        return self._keep(_GaugeRelay(make), name, unit, description)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        buckets = {"explicit_bucket_boundaries_advisory": explicit_bucket_boundaries_advisory}
        make = methodcaller("create_histogram", name, unit, description, **buckets)
        return self._keep(_HistogramRelay(make), name, unit, description)

    def create_observable_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableCounter:
        make = methodcaller("create_observable_counter", name, callbacks, unit, description)
        return self._keep(_ObservableCounterRelay(make), name, unit, description)

    def create_observable_up_down_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableUpDownCounter:
        make = methodcaller("create_observable_up_down_counter", name, callbacks, unit, description)
        return self._keep(_ObservableUpDownCounterRelay(make), name, unit, description)

    def create_observable_gauge(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableGauge:
        make = methodcaller("create_observable_gauge", name, callbacks, unit, description)
        return self._keep(_ObservableGaugeRelay(make), name, unit, description)

    def _keep(self, instrument: _I, name: str, unit: str, description: str) -> _I:
        # As in the SDK, an instrument asked for again is the one there is.
        key = (type(instrument), name, unit, description)
        with self._lock:
            kept: _I = self._instruments.setdefault(key, instrument)
            if kept is instrument:
                instrument.lead_to(self._meter)
            return kept
