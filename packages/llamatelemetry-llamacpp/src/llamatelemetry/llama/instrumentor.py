"""What the instrumentors of the two libraries have in common: when they patch, and how they take it back."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Collection
from types import ModuleType
from typing import Any, ClassVar

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # mypy may not look inside.
    BaseInstrumentor,
)

from llamatelemetry.otel.import_watch import ImportWatch
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.otel.patches import Patches

_log = logging.getLogger(__name__)


class LibraryInstrumentor(BaseInstrumentor):  # type: ignore[misc] # For the same reason.
    """Patches one library, now or as soon as somebody imports it, and imports nothing itself.

    OpenTelemetry keeps one instrumentor of each class, and calls its constructor every time it is asked for.
    """

    library: ClassVar[str]
    """Name of the module to wait for."""

    requirement: ClassVar[str]
    """The distribution that it is of, and its versions."""

    _sink: InstrumentationSink | None = None
    _patches: Patches | None = None
    _watch: ImportWatch | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """What has to be installed."""
        return (self.requirement,)

    def flush(self) -> bool:
        """Waits, a second at most, until what has ended is recorded; False if time ran out."""
        return self._sink is None or self._sink.flush()

    def patch(self, library: ModuleType, patches: Patches, sink: InstrumentationSink) -> None:
        """Patches the library.

        Args:
            library: The module, imported.
            patches: Puts functions in place, and takes them back when that is wanted.
            sink: Takes what is observed.
        """
        raise NotImplementedError

    def _instrument(self, **kwargs: Any) -> None:
        providers = {name: kwargs.get(name) for name in ("tracer_provider", "meter_provider", "logger_provider")}
        self._sink, self._patches = InstrumentationSink(**providers), Patches()
        self._watch = ImportWatch({self.library: self._imported})
        self._watch.start()

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._watch is None or self._patches is None or self._sink is None:
            return
        self._watch.stop()
        self._patches.restore()
        self._sink.close()
        atexit.unregister(self._sink.close)
        self._sink = self._patches = self._watch = None

    def _imported(self, library: ModuleType) -> None:
        if self._patches is None or self._sink is None:
            return
        try:
            self.patch(library, self._patches, self._sink)
        except Exception:  # noqa: BLE001 - it is being imported by somebody who wants to use it
            _log.exception("%s is not what it was when this was written, and is not traced", self.library)
            self._patches.restore()
