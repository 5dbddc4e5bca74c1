"""The way in without code: what ``opentelemetry-instrument`` calls before it runs an application.

OpenTelemetry asks a distribution for two things by entry point: a distro, which loads instrumentors,
and a configurator, which starts the SDK. Ours start :func:`llamatelemetry.init` from the environment
alone. Whatever is wrong there is said in one line, and the application runs as it would without us.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from opentelemetry.instrumentation.dependencies import DependencyConflictError
from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined] # mypy may not look inside.
from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_CONFIGURATOR

from llamatelemetry import sdk
from llamatelemetry.config import beside_providers, resolve_settings
from llamatelemetry.errors import LlamatelemetryError, MissingDependencyError

NAME: Final = "llamatelemetry"
"""What OTEL_PYTHON_DISTRO and OTEL_PYTHON_CONFIGURATOR call us."""

CONFIG_FILE: Final = "OTEL_CONFIG_FILE"
"""Names a file of OpenTelemetry's declarative configuration."""

_EXPORT_TIMEOUT: Final = "how long one export may take is OTEL_EXPORTER_OTLP_TIMEOUT's to say"
_FOREIGN_PART: Final = f"name the part in the file of {CONFIG_FILE}, or set {OTEL_PYTHON_CONFIGURATOR}=configurator"
_FOREIGN_PROVIDER: Final = "leave it out, the provider is ours"
UNREAD: Final[Mapping[str, str]] = {
    "OTEL_BLRP_EXPORT_TIMEOUT": _EXPORT_TIMEOUT,
    "OTEL_BSP_EXPORT_TIMEOUT": _EXPORT_TIMEOUT,
    "OTEL_METRIC_EXPORT_TIMEOUT": _EXPORT_TIMEOUT,
    "OTEL_PYTHON_ID_GENERATOR": _FOREIGN_PART,
    "OTEL_PYTHON_LOGGER_CONFIGURATOR": _FOREIGN_PART,
    "OTEL_PYTHON_LOGGER_PROVIDER": _FOREIGN_PROVIDER,
    "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "leave it out, install opentelemetry-instrumentation-logging",
    "OTEL_PYTHON_METER_CONFIGURATOR": _FOREIGN_PART,
    "OTEL_PYTHON_METER_PROVIDER": _FOREIGN_PROVIDER,
    "OTEL_PYTHON_TRACER_CONFIGURATOR": _FOREIGN_PART,
    "OTEL_PYTHON_TRACER_PROVIDER": _FOREIGN_PROVIDER,
}
"""Variables that OpenTelemetry's own configurator and API read and ours does not, and what to do instead."""

_log = logging.getLogger(__name__)


class LlamatelemetryConfigurator:
    """Starts telemetry from the environment. OpenTelemetry calls it, once; it never raises."""

    failed: ClassVar[bool] = False
    """Whether telemetry could not be started in this process."""

    def configure(self, *, auto_instrumentation_version: str | None = None, **_others: Any) -> None:
        """Calls :func:`llamatelemetry.init`, over the providers of ``OTEL_CONFIG_FILE`` if there is one.

        Args:
            auto_instrumentation_version: Version of opentelemetry-instrumentation, for the resource.
        """
        try:
            _start(auto_instrumentation_version)
        except Exception as error:  # noqa: BLE001 - a wrong variable costs the application nothing but its telemetry
            LlamatelemetryConfigurator.failed = True
            said = error if isinstance(error, LlamatelemetryError) else f"{type(error).__name__}: {error}"
            _log.error("llamatelemetry does not start: %s", said)
            _log.debug("where that was found", exc_info=True)


class LlamatelemetryDistro(BaseDistro):  # type: ignore[misc] # For the same reason.
    """Loads instrumentors, each on its own. OpenTelemetry makes it, once."""

    def _configure(self, **_kwargs: Any) -> None:
        # Where several distributions are installed and this one was chosen, its configurator goes with it.
        if not os.environ.get(OTEL_PYTHON_CONFIGURATOR):
            os.environ[OTEL_PYTHON_CONFIGURATOR] = NAME

    def load_instrumentor(self, entry_point: Any, **kwargs: Any) -> None:
        """Instruments one library; what fails is said, and neither the others nor the application suffer.

        Args:
            entry_point: Of an instrumentor.
            **kwargs: For its ``instrument()``.

        Raises:
            DependencyConflictError: The library is not installed, or not in a version that is understood;
                OpenTelemetry, which asked, says so.
            ImportError: As above.
        """
        if LlamatelemetryConfigurator.failed:
            return
        try:
            super().load_instrumentor(entry_point, **kwargs)
        except LlamatelemetryError as error:
            _log.error("%s is not instrumented: %s", entry_point.name, error)
        except (DependencyConflictError, ImportError):
            raise
        except Exception:  # noqa: BLE001 - somebody else's code, which the loader would let stop all that come after
            _log.exception("%s is not instrumented", entry_point.name)


def _start(auto_instrumentation_version: str | None) -> None:
    path = os.environ.get(CONFIG_FILE, "").strip()
    # Looked at before the file, because nobody unmakes the providers that are made of it.
    if path and not resolve_settings({}, beside_providers()).disabled:
        if _configure_from(path):
            # What the file leaves out is off, as its specification has it, and does not go to files of ours.
            sdk.init_beside_providers()
        return
    for name, advice in UNREAD.items():
        if os.environ.get(name, "").strip().lower() not in {"", "false"}:
            _log.warning("llamatelemetry does not read %s: %s", name, advice)
        if advice is _FOREIGN_PROVIDER:
            # The API makes such a provider for whoever asks for one before any is set: one that exports to nobody.
            os.environ.pop(name, None)
    version = {} if auto_instrumentation_version is None else {"telemetry.auto.version": auto_instrumentation_version}
    sdk.init(resource_attributes=version)


def _configure_from(path: str) -> bool:
    """Sets the providers that a file of declarative configuration describes; False if it says not to."""
    try:
        from opentelemetry.configuration import configure_sdk, load_config_file
    except ImportError:
        raise MissingDependencyError(
            CONFIG_FILE, "opentelemetry-configuration", "pip install opentelemetry-configuration"
        ) from None
    config = load_config_file(path)
    configure_sdk(config)
    return not config.disabled
