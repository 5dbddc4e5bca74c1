"""Global providers that stay while what they provide changes.

The OpenTelemetry API takes each global provider once per process, and instrumented code keeps the
tracers it got. So that ``init()`` works again after ``shutdown()``, what is set globally are these:
they pass everything on to the provider of the moment, and to no-ops in between. A tracer or logger
obtained at any time, even before ``init()``, therefore always leads to today's exporters. The
metrics counterpart is in :mod:`.standing_metrics`. Only the API's public classes are used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from opentelemetry import trace
from opentelemetry._logs import Logger, LoggerProvider, NoOpLoggerProvider
from opentelemetry.trace import NoOpTracerProvider, Span, Tracer, TracerProvider

# Private, and what the API's own tracers are made with: contextlib's cannot decorate async functions.
from opentelemetry.util._decorator import _agnosticcontextmanager
from opentelemetry.util.types import Attributes

_P = TypeVar("_P")
_P_contra = TypeVar("_P_contra", contravariant=True)


class Relay(Protocol[_P_contra]):
    """Something obtained from a standing provider, which leads to the provider of the moment."""

    def lead_to(self, provider: _P_contra, /) -> None:
        """Takes what it passes on to from ``provider`` from now on."""
        ...


_R = TypeVar("_R", bound=Relay[Any])


class Relays(Generic[_P, _R]):
    """The relays of one standing provider, by scope. Thread-safe.

    Args:
        provider: The provider of the moment, to begin with.
        make: Makes a relay for a scope: name, version, schema URL, attributes.
    """

    def __init__(self, provider: _P, make: Callable[[str, str | None, str | None, Attributes], _R]) -> None:
        self.provider: _P = provider
        self._make = make
        self._relays: dict[tuple[str, str | None, str | None, str], _R] = {}
        self._lock = threading.RLock()

    def get(self, name: str, version: str | None, schema_url: str | None, attributes: Attributes) -> _R:
        """The relay of a scope."""
        key = (name, version, schema_url, _stable(attributes))
        relay = self._relays.get(key)
        if relay is not None:
            return relay
        with self._lock:
            if key not in self._relays:
                relay = self._make(name, version, schema_url, attributes)
                relay.lead_to(self.provider)
                self._relays[key] = relay
            return self._relays[key]

    def lead_to(self, provider: _P) -> None:
        """Makes ``provider`` the one of the moment, for all relays there are and will be."""
        with self._lock:
            self.provider = provider
            for relay in self._relays.values():
                relay.lead_to(provider)


class StandingTracerProvider(TracerProvider):
    """The global tracer provider. What it has beyond the API is the SDK provider's of the moment."""

    def __init__(self) -> None:
        self._relays: Relays[TracerProvider, _TracerRelay] = Relays(NoOpTracerProvider(), _TracerRelay)

    def lead_to(self, provider: TracerProvider) -> None:
        """Makes ``provider`` the one of the moment."""
        self._relays.lead_to(provider)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """A tracer that always leads to the provider of the moment."""
        return self._relays.get(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)

    def __getattr__(self, name: str) -> Any:
        # Libraries ask the global provider for add_span_processor, force_flush, resource, ….
        return getattr(self.__dict__["_relays"].provider, name)


class _TracerRelay(Tracer):
    def __init__(self, name: str, version: str | None, schema_url: str | None, attributes: Attributes) -> None:
        self._scope = (name, version, schema_url, attributes)
        self._tracer: Tracer = trace.NoOpTracer()

    def lead_to(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer(*self._scope)

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        return self._tracer.start_span(*args, **kwargs)

    @_agnosticcontextmanager
    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Iterator[Span]:
        # A generator, so that a decorated function asks for its tracer at each call.
        with self._tracer.start_as_current_span(*args, **kwargs) as span:
            yield span


class StandingLoggerProvider(LoggerProvider):
    """The global logger provider. What it has beyond the API is the SDK provider's of the moment."""

    def __init__(self) -> None:
        self._relays: Relays[LoggerProvider, _LoggerRelay] = Relays(NoOpLoggerProvider(), _LoggerRelay)

    def lead_to(self, provider: LoggerProvider) -> None:
        """Makes ``provider`` the one of the moment."""
        self._relays.lead_to(provider)

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Logger:
        """A logger that always leads to the provider of the moment."""
        return self._relays.get(name, version, schema_url, attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_relays"].provider, name)


class _LoggerRelay(Logger):
    def __init__(self, name: str, version: str | None, schema_url: str | None, attributes: Attributes) -> None:
        super().__init__(name, version, schema_url, attributes)
        self._scope = (name, version, schema_url, attributes)
        self._logger: Logger = NoOpLoggerProvider().get_logger(name)

    def lead_to(self, provider: LoggerProvider) -> None:
        self._logger = provider.get_logger(*self._scope)

    def emit(self, *args: Any, **kwargs: Any) -> None:
        self._logger.emit(*args, **kwargs)

    def enabled(self, **kwargs: Any) -> bool:
        return self._logger.enabled(**kwargs)


def _stable(attributes: Mapping[str, Any] | None) -> str:
    return repr(sorted(attributes.items())) if attributes else ""
