"""What instrumentors hand their observations to: the recorder of ``init()``, or one on other providers.

``opentelemetry-instrument`` may run an application under any distribution, with providers that are
not ours. An instrumentor then makes its spans with those, by the same recorder and the same tables.
"""

from __future__ import annotations

import atexit
import functools
import logging
import threading
from importlib.metadata import version
from typing import Final

from opentelemetry._logs import LoggerProvider, get_logger
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from llamatelemetry.config import Settings, beside_providers, resolve_settings
from llamatelemetry.errors import ConfigurationError
from llamatelemetry.inference.record import Opening
from llamatelemetry.inference.sink import RequestTrace, installed_sink
from llamatelemetry.otel.recorder import Recorder, Untraced
from llamatelemetry.otel.redaction import redactor_for

_log = logging.getLogger(__name__)

_DRAIN_S: Final = 1.0
"""Most seconds that closing waits for observations that have ended to be recorded."""


class InstrumentationSink:
    """Implements :class:`~llamatelemetry.inference.sink.RecordSink` for instrumentors.

    Providers that are given are used. Without any, the recorder of ``init()`` is, and before
    ``init()``, or without it, the process's global providers are. Where the environment has something
    that cannot be used, that is logged once and nothing is observed: an instrumentor that raised would
    keep OpenTelemetry from loading all that come after it.

    Args:
        tracer_provider: Makes the spans.
        meter_provider: Makes the instruments.
        logger_provider: Takes content events.

    Attributes:
        settings: Those in force where ``init()`` was not called: of the environment, less what chooses exporters.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        self._given = (tracer_provider, meter_provider, logger_provider)
        self._has_own = any(provider is not None for provider in self._given)
        self._recorder: Recorder | None = None
        self._lock = threading.Lock()
        self.settings: Settings = _settings()
        self._redactor = redactor_for(self.settings)

    @property
    def captures_content(self) -> bool:
        """Whether prompts and answers may be exported: else an instrumentor need not decode them."""
        recorder = None if self._has_own else installed_sink()
        if isinstance(recorder, Recorder):
            return recorder.captures_content
        return self.settings.capture_content != "NO_CONTENT"

    def begin(self, opening: Opening) -> RequestTrace:
        """Opens a span under the caller's current context, unless instrumentation is suppressed there."""
        if not is_instrumentation_enabled():
            return Untraced()
        installed = None if self._has_own else installed_sink()
        if installed is None and self.settings.disabled:
            return Untraced()
        return (installed or self._own()).begin(opening)

    def close(self) -> None:
        """Records what has ended, within a second; idempotent, and usable again afterwards."""
        with self._lock:
            recorder, self._recorder = self._recorder, None
        if recorder is not None:
            atexit.unregister(self.close)
            recorder.shutdown(_DRAIN_S)

    def flush(self, timeout_s: float = _DRAIN_S) -> bool:
        """Waits until what has ended is recorded on providers that are not ``init()``'s; False if time ran out."""
        recorder = self._recorder
        return recorder is None or recorder.flush(timeout_s)

    def _own(self) -> Recorder:
        with self._lock:
            if self._recorder is None:
                tracer_provider, meter_provider, logger_provider = self._given
                ours = version("llamatelemetry-core")
                self._recorder = Recorder(
                    tracer=get_tracer("llamatelemetry", ours, tracer_provider),
                    meter=get_meter("llamatelemetry", ours, meter_provider),
                    logger=get_logger("llamatelemetry", ours, logger_provider),
                    settings=self.settings,
                    redactor=self._redactor,
                )
                # What is registered last runs first: by now the provider has registered its own shutdown.
                atexit.register(self.close)
            return self._recorder


def _settings() -> Settings:
    try:
        return resolve_settings({}, beside_providers())
    except ConfigurationError as error:
        _say(str(error))
        return Settings(disabled=True)


@functools.cache
def _say(message: str) -> None:
    """Logs what every instrumentor of a process would find, once."""
    _log.error("llamatelemetry does not observe inferences: %s", message)
