"""Settings: arguments over environment over defaults, checked once, frozen.

Standard ``OTEL_*`` variables keep their standard meaning; what OpenTelemetry has no variable for
is ``LLAMATELEMETRY_*``. :data:`VARIABLES` is the whole list, and the reference page is made from it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import unquote

from llamatelemetry.errors import ConfigurationError

Exporter = Literal["otlp", "file", "console", "prometheus", "none"]
"""Where a signal can go."""

Protocol = Literal["http/protobuf", "grpc"]
"""How OTLP is spoken."""

Profile = Literal["gen_ai", "gen_ai_next", "llm", "openinference"]
"""A set of names that a record can be emitted in."""

CaptureContent = Literal["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"]
"""Whether prompts and answers are exported, and on what."""

Redaction = Literal["mask", "hash", "off"]
"""What replaces a secret."""

Sampler = Literal[
    "always_on",
    "always_off",
    "ratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_ratio",
    "keep_slow_and_errors",
]
"""Which traces are kept."""

_OTEL_SAMPLER_SPELLINGS: Final = {"traceidratio": "ratio", "parentbased_traceidratio": "parentbased_ratio"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything ``init()`` was told, resolved.

    Attributes:
        service_name: ``service.name`` of the resource.
        otlp_endpoint: Base URL of an OTLP receiver; None writes files instead.
        otlp_traces_endpoint: Where spans go instead, the whole URL; None is the base URL's.
        otlp_metrics_endpoint: Where metrics go instead.
        otlp_logs_endpoint: Where log records go instead.
        otlp_protocol: How to speak to it.
        otlp_headers: Extra headers for each export.
        traces_exporters: Where spans go.
        metrics_exporters: Where metrics go.
        logs_exporters: Where log records go.
        telemetry_dir: Folder of the OTLP-JSON-lines files.
        file_max_bytes: Size at which a telemetry file is rotated, in bytes.
        file_max_count: Telemetry files kept per signal; the oldest is deleted past it.
        prometheus_host: Address the scrape endpoint binds.
        prometheus_port: Port of the scrape endpoint; 0 takes a free one.
        metric_interval_s: Seconds between two metric exports; the variable gives milliseconds.
        sampler: Which traces are kept.
        sampler_arg: Share of traces for the ratio samplers, in [0, 1]; seconds from which a trace
            counts as slow for ``keep_slow_and_errors``. None takes 1 in either case.
        semconv: Profiles every record is emitted in, without repeats.
        capture_content: Whether prompts and answers are exported, and where.
        redaction: What replaces a secret found in exported text.
        redact_patterns: More regular expressions whose matches are secrets.
        redact_keys: More attribute keys whose whole value is a secret.
        plugins: Plugins that may load; None allows all.
        disabled_plugins: Plugins that may not.
        gpu: Whether GPUs are measured, where there are any.
        gpu_interval_s: Seconds between two samples of a GPU.
        gpu_idle_power_w: What a GPU draws when idle, in watts; None takes the least that is seen.
        shutdown_timeout_s: Most seconds that ``shutdown()`` may take, at interpreter exit too; the
            default leaves the interpreter half a second of the two that exit may take.
        disabled: True makes ``init()`` do nothing.
    """

    service_name: str = "llamatelemetry"
    otlp_endpoint: str | None = None
    otlp_traces_endpoint: str | None = None
    otlp_metrics_endpoint: str | None = None
    otlp_logs_endpoint: str | None = None
    otlp_protocol: Protocol = "http/protobuf"
    otlp_headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    traces_exporters: tuple[Exporter, ...] = ("file",)
    metrics_exporters: tuple[Exporter, ...] = ("file",)
    logs_exporters: tuple[Exporter, ...] = ("file",)
    telemetry_dir: Path = Path("llamatelemetry-data")
    file_max_bytes: int = 64 * 2**20
    file_max_count: int = 16
    prometheus_host: str = "127.0.0.1"
    prometheus_port: int = 9464
    metric_interval_s: float = 60.0
    sampler: Sampler = "parentbased_always_on"
    sampler_arg: float | None = None
    semconv: tuple[Profile, ...] = ("gen_ai", "llm")
    capture_content: CaptureContent = "NO_CONTENT"
    redaction: Redaction = "mask"
    redact_patterns: tuple[str, ...] = ()
    redact_keys: tuple[str, ...] = ()
    plugins: tuple[str, ...] | None = None
    disabled_plugins: tuple[str, ...] = ()
    gpu: bool = True
    gpu_interval_s: float = 0.1
    gpu_idle_power_w: float | None = None
    shutdown_timeout_s: float = 1.5
    disabled: bool = False


def _choice(choices: object) -> Callable[[str], str]:
    allowed = get_args(choices)

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError("choose one of " + ", ".join(allowed))
        return text

    return parse


def _choices(choices: object) -> Callable[[str], tuple[str, ...]]:
    one = _choice(choices)

    def parse(text: str) -> tuple[str, ...]:
        names = _names(text)
        if not names:
            raise ValueError("choose at least one of " + ", ".join(get_args(choices)))
        for name in names:
            one(name)
        return names

    return parse


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _number(low: float, high: float = float("inf"), scale: float = 1.0) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise ValueError("give a number") from None
        if not low <= number <= high:
            raise ValueError(f"give a number from {low:g} to {high:g}")
        return number * scale

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return parse


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in {"true", "false"}:
        raise ValueError("give true or false")
    return lowered == "true"


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("give a URL such as http://127.0.0.1:4318")
    return text.rstrip("/")


def _headers(text: str) -> dict[str, str]:
    # OpenTelemetry's OTLP exporter specification: W3C Baggage syntax without metadata.
    headers = {}
    for part in _names(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError("give key=value pairs separated by commas")
        headers[key.strip().lower()] = unquote(value.strip())
    return headers


def _sampler(text: str) -> str:
    return _choice(Sampler)(_OTEL_SAMPLER_SPELLINGS.get(text, text))


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: its name, the setting it fills and how its text is read."""

    name: str
    field: str
    parse: Callable[[str], Any]


_COUNT_MAX: Final = 1_000_000
_BYTES_MAX: Final = 2**40

VARIABLES: Final[tuple[Variable, ...]] = (
    Variable("OTEL_SDK_DISABLED", "disabled", _flag),
    Variable("OTEL_SERVICE_NAME", "service_name", str),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint", _url),
    Variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp_traces_endpoint", _url),
    Variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otlp_metrics_endpoint", _url),
    Variable("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "otlp_logs_endpoint", _url),
    Variable("OTEL_EXPORTER_OTLP_PROTOCOL", "otlp_protocol", _choice(Protocol)),
    Variable("OTEL_EXPORTER_OTLP_HEADERS", "otlp_headers", _headers),
    Variable("OTEL_TRACES_EXPORTER", "traces_exporters", _choices(Exporter)),
    Variable("OTEL_METRICS_EXPORTER", "metrics_exporters", _choices(Exporter)),
    Variable("OTEL_LOGS_EXPORTER", "logs_exporters", _choices(Exporter)),
    Variable("OTEL_EXPORTER_PROMETHEUS_HOST", "prometheus_host", str),
    Variable("OTEL_EXPORTER_PROMETHEUS_PORT", "prometheus_port", _whole(0, 65535)),
    Variable("OTEL_METRIC_EXPORT_INTERVAL", "metric_interval_s", _number(1, scale=1e-3)),
    Variable("OTEL_TRACES_SAMPLER", "sampler", _sampler),
    Variable("OTEL_TRACES_SAMPLER_ARG", "sampler_arg", _number(0)),
    Variable("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "capture_content", _choice(CaptureContent)),
    Variable("LLAMATELEMETRY_DIR", "telemetry_dir", Path),
    Variable("LLAMATELEMETRY_FILE_MAX_BYTES", "file_max_bytes", _whole(4096, _BYTES_MAX)),
    Variable("LLAMATELEMETRY_FILE_MAX_COUNT", "file_max_count", _whole(1, _COUNT_MAX)),
    Variable("LLAMATELEMETRY_SEMCONV", "semconv", _choices(Profile)),
    Variable("LLAMATELEMETRY_REDACTION", "redaction", _choice(Redaction)),
    Variable("LLAMATELEMETRY_REDACT_KEYS", "redact_keys", _names),
    Variable("LLAMATELEMETRY_PLUGINS", "plugins", _names),
    Variable("LLAMATELEMETRY_DISABLED_PLUGINS", "disabled_plugins", _names),
    Variable("LLAMATELEMETRY_GPU", "gpu", _flag),
    Variable("LLAMATELEMETRY_GPU_INTERVAL", "gpu_interval_s", _number(0.02, 10)),
    Variable("LLAMATELEMETRY_GPU_IDLE_POWER", "gpu_idle_power_w", _number(0, 10_000)),
    Variable("LLAMATELEMETRY_SHUTDOWN_TIMEOUT", "shutdown_timeout_s", _number(0.1, 60)),
)
"""Every environment variable that is read, and the setting it fills."""

# The exporters of each signal, and the endpoint that is its own.
_SIGNALS: Final = {
    "traces_exporters": "otlp_traces_endpoint",
    "metrics_exporters": "otlp_metrics_endpoint",
    "logs_exporters": "otlp_logs_endpoint",
}


def resolve_settings(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Builds :class:`Settings` from arguments, then the environment, then defaults.

    Args:
        arguments: Setting names to values; None means not given.
        environ: Environment to read; the process's own when None.

    Raises:
        ConfigurationError: Names the variable or argument, its value and the choices.
    """
    environ = os.environ if environ is None else environ
    known = {field.name for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if not text:
            continue
        try:
            values[variable.field] = variable.parse(text)
        except ValueError as error:
            raise ConfigurationError(variable.name, text, str(error)) from None
    _reject_unknown_variables(environ)
    for name, value in arguments.items():
        if name not in known:
            raise ConfigurationError(name, value, "choose one of " + ", ".join(sorted(known)))
        if value is not None:
            values[name] = _check_argument(name, value)
    for signal, endpoint in _SIGNALS.items():
        if values.get("otlp_endpoint") or values.get(endpoint):
            values.setdefault(signal, ("otlp",))
    settings = Settings(**values)
    _check_together(settings)
    return settings


def _reject_unknown_variables(environ: Mapping[str, str]) -> None:
    ours = sorted(variable.name for variable in VARIABLES if variable.name.startswith("LLAMATELEMETRY_"))
    for name, value in environ.items():
        if name.startswith("LLAMATELEMETRY_") and name not in ours:
            raise ConfigurationError(name, value, "no such variable; choose one of " + ", ".join(ours))


def _check_argument(name: str, value: Any) -> Any:
    """Reads an argument with its variable's parser, so that both ways in have the same rules."""
    try:
        if name in _ARGUMENT_READERS:
            return _ARGUMENT_READERS[name](value)
        parse = next(variable.parse for variable in VARIABLES if variable.field == name)
        if isinstance(value, bool):
            return parse(str(value).lower())
        return parse(str(value) if isinstance(value, str | Path | float | int) else ",".join(value))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(name, value, str(error)) from None


def _patterns(value: Iterable[str]) -> tuple[str, ...]:
    patterns = tuple(value)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return patterns


# Settings that have no variable, or whose variable is in other units.
_ARGUMENT_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "otlp_headers": dict,
    "redact_patterns": _patterns,
    "metric_interval_s": lambda value: _number(0.001)(str(value)),
}


def _check_together(settings: Settings) -> None:
    for signal, endpoint in _SIGNALS.items():
        exporters = getattr(settings, signal)
        if "none" in exporters and len(exporters) > 1:
            raise ConfigurationError(signal, exporters, '"none" stands alone')
        if "otlp" in exporters and settings.otlp_endpoint is None and getattr(settings, endpoint) is None:
            raise ConfigurationError(
                signal, exporters, '"otlp" needs an endpoint: give otlp_endpoint or OTEL_EXPORTER_OTLP_ENDPOINT'
            )
        if "prometheus" in exporters and signal != "metrics_exporters":
            raise ConfigurationError(signal, exporters, '"prometheus" takes metrics only')
    if settings.sampler.endswith("ratio") and settings.sampler_arg is not None and settings.sampler_arg > 1:
        raise ConfigurationError("sampler_arg", settings.sampler_arg, "a share of traces is between 0 and 1")
