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
from typing import Any, Final, Literal

from llamatelemetry.errors import ConfigurationError
from llamatelemetry.readers import base_url, flag, headers, names, number, one_of, some_of, url, whole

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
        otlp_endpoint: Base URL of an OTLP receiver. Without one telemetry goes to files; where OTLP is
            chosen all the same, it goes to port 4318 of this machine, or to 4317 over gRPC.
        otlp_traces_endpoint: Where spans go instead, the whole URL; None is the base URL's.
        otlp_metrics_endpoint: Where metrics go instead.
        otlp_logs_endpoint: Where log records go instead.
        otlp_protocol: How to speak to it.
        otlp_traces_protocol: How to speak it for spans; None is as for the others.
        otlp_metrics_protocol: How to speak it for metrics.
        otlp_logs_protocol: How to speak it for log records.
        otlp_headers: Extra headers for each export; they hold keys, so none is in what ``repr()`` says.
        otlp_traces_headers: Extra headers for each export of spans instead; None is as for the others.
        otlp_metrics_headers: Extra headers for each export of metrics instead.
        otlp_logs_headers: Extra headers for each export of log records instead.
        traces_exporters: Where spans go.
        metrics_exporters: Where metrics go.
        logs_exporters: Where log records go.
        telemetry_dir: Folder of the OTLP-JSON-lines files.
        file_max_bytes: Size at which a telemetry file is rotated, in bytes.
        file_max_count: Telemetry files kept per signal; the oldest is deleted past it.
        prometheus_host: Address the scrape endpoint binds.
        prometheus_port: Port of the scrape endpoint; 0 takes a free one.
        span_queue_size: Spans that wait for one exporter; past it the oldest are lost, and counted.
        span_batch_size: Most spans of one export.
        span_delay_s: Longest that a span waits for others to share an export, in seconds; the variable gives
            milliseconds. None is 5 s for OTLP, 1 s for files and nothing for the console.
        log_queue_size: As ``span_queue_size``, for log records.
        log_batch_size: As ``span_batch_size``.
        log_delay_s: As ``span_delay_s``; None is 1 s for OTLP.
        metric_interval_s: Seconds between two metric exports; the variable gives milliseconds.
        sampler: Which traces are kept.
        sampler_arg: Share of traces for the ratio samplers, in [0, 1]; seconds from which a trace
            counts as slow for ``keep_slow_and_errors``. None takes 1 in either case.
        semconv: Profiles every record is emitted in, without repeats.
        capture_content: Whether prompts and answers are exported, and where.
        redaction: What replaces a secret found in exported text.
        redact_patterns: More regular expressions whose matches are secrets.
        redact_keys: Keys, in any case, whose whole value is a secret: of attributes of our spans and events, and
            of fields inside prompts, answers, tools' arguments and parameters of pipelines.
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
    otlp_traces_protocol: Protocol | None = None
    otlp_metrics_protocol: Protocol | None = None
    otlp_logs_protocol: Protocol | None = None
    otlp_headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    otlp_traces_headers: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)
    otlp_metrics_headers: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)
    otlp_logs_headers: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)
    traces_exporters: tuple[Exporter, ...] = ("file",)
    metrics_exporters: tuple[Exporter, ...] = ("file",)
    logs_exporters: tuple[Exporter, ...] = ("file",)
    telemetry_dir: Path = Path("llamatelemetry-data")
    file_max_bytes: int = 64 * 2**20
    file_max_count: int = 16
    prometheus_host: str = "127.0.0.1"
    prometheus_port: int = 9464
    span_queue_size: int = 4096
    span_batch_size: int = 512
    span_delay_s: float | None = None
    log_queue_size: int = 4096
    log_batch_size: int = 512
    log_delay_s: float | None = None
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


def _sampler(text: str) -> str:
    return one_of(Sampler)(_OTEL_SAMPLER_SPELLINGS.get(text, text))


def _capture(text: str) -> str:
    # In any case, as opentelemetry-util-genai reads the variable.
    return one_of(CaptureContent)(text.upper())


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: its name, the setting it fills and how its text is read."""

    name: str
    field: str
    parse: Callable[[str], Any]


HIDDEN: Final = "(not shown)"
"""In place of a value that is probably a secret."""
_COUNT_MAX: Final = 1_000_000
_BYTES_MAX: Final = 2**40

VARIABLES: Final[tuple[Variable, ...]] = (
    # First, because it decides whether the others have to be right.
    Variable("OTEL_SDK_DISABLED", "disabled", flag),
    Variable("OTEL_SERVICE_NAME", "service_name", str),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint", base_url),
    Variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp_traces_endpoint", url),
    Variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otlp_metrics_endpoint", url),
    Variable("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "otlp_logs_endpoint", url),
    Variable("OTEL_EXPORTER_OTLP_PROTOCOL", "otlp_protocol", one_of(Protocol)),
    Variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "otlp_traces_protocol", one_of(Protocol)),
    Variable("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "otlp_metrics_protocol", one_of(Protocol)),
    Variable("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "otlp_logs_protocol", one_of(Protocol)),
    Variable("OTEL_EXPORTER_OTLP_HEADERS", "otlp_headers", headers),
    Variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "otlp_traces_headers", headers),
    Variable("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "otlp_metrics_headers", headers),
    Variable("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "otlp_logs_headers", headers),
    Variable("OTEL_TRACES_EXPORTER", "traces_exporters", some_of(Exporter)),
    Variable("OTEL_METRICS_EXPORTER", "metrics_exporters", some_of(Exporter)),
    Variable("OTEL_LOGS_EXPORTER", "logs_exporters", some_of(Exporter)),
    Variable("OTEL_EXPORTER_PROMETHEUS_HOST", "prometheus_host", str),
    Variable("OTEL_EXPORTER_PROMETHEUS_PORT", "prometheus_port", whole(0, 65535)),
    Variable("OTEL_BSP_MAX_QUEUE_SIZE", "span_queue_size", whole(1, _COUNT_MAX)),
    Variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "span_batch_size", whole(1, _COUNT_MAX)),
    Variable("OTEL_BSP_SCHEDULE_DELAY", "span_delay_s", number(0, scale=1e-3)),
    Variable("OTEL_BLRP_MAX_QUEUE_SIZE", "log_queue_size", whole(1, _COUNT_MAX)),
    Variable("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "log_batch_size", whole(1, _COUNT_MAX)),
    Variable("OTEL_BLRP_SCHEDULE_DELAY", "log_delay_s", number(0, scale=1e-3)),
    Variable("OTEL_METRIC_EXPORT_INTERVAL", "metric_interval_s", number(1, scale=1e-3)),
    Variable("OTEL_TRACES_SAMPLER", "sampler", _sampler),
    Variable("OTEL_TRACES_SAMPLER_ARG", "sampler_arg", number(0)),
    Variable("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "capture_content", _capture),
    Variable("LLAMATELEMETRY_DIR", "telemetry_dir", Path),
    Variable("LLAMATELEMETRY_FILE_MAX_BYTES", "file_max_bytes", whole(4096, _BYTES_MAX)),
    Variable("LLAMATELEMETRY_FILE_MAX_COUNT", "file_max_count", whole(1, _COUNT_MAX)),
    Variable("LLAMATELEMETRY_SEMCONV", "semconv", some_of(Profile)),
    Variable("LLAMATELEMETRY_REDACTION", "redaction", one_of(Redaction)),
    Variable("LLAMATELEMETRY_REDACT_KEYS", "redact_keys", names),
    Variable("LLAMATELEMETRY_PLUGINS", "plugins", names),
    Variable("LLAMATELEMETRY_DISABLED_PLUGINS", "disabled_plugins", names),
    Variable("LLAMATELEMETRY_GPU", "gpu", flag),
    Variable("LLAMATELEMETRY_GPU_INTERVAL", "gpu_interval_s", number(0.02, 10)),
    Variable("LLAMATELEMETRY_GPU_IDLE_POWER", "gpu_idle_power_w", number(0, 10_000)),
    Variable("LLAMATELEMETRY_SHUTDOWN_TIMEOUT", "shutdown_timeout_s", number(0.1, 60)),
)
"""Every environment variable that is read, and the setting it fills."""

READ_ELSEWHERE: Final = ("LLAMATELEMETRY_HOME", "LLAMATELEMETRY_KEY_PASSWORD", "LLAMATELEMETRY_LIBLLAMA")
"""Variables that fill no setting: where deployments are kept, what a signing key is encrypted with, and the library
that models are evaluated with."""

_OF_PROVIDERS: Final = frozenset(
    variable.name
    for variable in VARIABLES
    if variable.name.startswith("OTEL_") and variable.field not in {"disabled", "capture_content"}
)
"""Variables that providers are made by: where others made them, these mean nothing to us or something else."""

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

    Returns:
        All settings. Of an environment that says to do nothing, what is wrong in it is left aside.

    Raises:
        ConfigurationError: Names the variable or argument, its value and the choices.
    """
    environ = os.environ if environ is None else environ
    known = {field.name for field in dataclasses.fields(Settings)}
    values = _values_in(environ)
    for name, value in arguments.items():
        if name not in known:
            raise ConfigurationError(name, value, "choose one of " + ", ".join(sorted(known)))
        if value is not None:
            values[name] = _check_argument(name, value)
    for signal, endpoint in _SIGNALS.items():
        if values.get("otlp_endpoint") or values.get(endpoint):
            values.setdefault(signal, ("otlp",))
    settings = Settings(**values)
    if not settings.disabled:
        _check_together(settings)
    return settings


def beside_providers(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment as it counts where somebody else makes the providers: without what chooses exporters and sampler.

    Args:
        environ: Environment to read; the process's own when None.
    """
    environ = os.environ if environ is None else environ
    return {name: text for name, text in environ.items() if name not in _OF_PROVIDERS}


def _values_in(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if not text:
            continue
        try:
            values[variable.field] = variable.parse(text)
        except ValueError as error:
            if not values.get("disabled"):
                raise ConfigurationError(variable.name, _shown(variable.field, text), str(error)) from None
    if not values.get("disabled"):
        _reject_unknown_variables(environ)
    return values


def _reject_unknown_variables(environ: Mapping[str, str]) -> None:
    ours = sorted(variable.name for variable in VARIABLES if variable.name.startswith("LLAMATELEMETRY_"))
    for name, value in environ.items():
        if name.startswith("LLAMATELEMETRY_") and name not in {*ours, *READ_ELSEWHERE}:
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
        raise ConfigurationError(name, _shown(name, value), str(error)) from None


def _shown(field: str, value: Any) -> Any:
    """A value as it may stand in a log: headers and passwords in URLs are how receivers are shown a key."""
    if field.endswith("headers"):
        return HIDDEN
    if field.endswith("endpoint") and isinstance(value, str) and "@" in value:
        # Whatever stands before it: of what is no URL, nobody knows where a password begins.
        return f"{HIDDEN}@{value.rpartition('@')[2]}"
    return value


def _headers_given(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair):
        return dict(value)
    raise ValueError("give a mapping of names to text")


def _patterns(value: str | Iterable[str]) -> tuple[str, ...]:
    patterns = (value,) if isinstance(value, str) else tuple(value)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return patterns


# Settings that have no variable, or whose variable is in other units.
_ARGUMENT_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "otlp_headers": _headers_given,
    "redact_patterns": _patterns,
    "otlp_traces_headers": _headers_given,
    "otlp_metrics_headers": _headers_given,
    "otlp_logs_headers": _headers_given,
    "span_delay_s": lambda value: number(0)(str(value)),
    "log_delay_s": lambda value: number(0)(str(value)),
    "metric_interval_s": lambda value: number(0.001)(str(value)),
}


def _check_together(settings: Settings) -> None:
    for signal in _SIGNALS:
        exporters = getattr(settings, signal)
        if "none" in exporters and len(exporters) > 1:
            raise ConfigurationError(signal, exporters, '"none" stands alone')
        if "prometheus" in exporters and signal != "metrics_exporters":
            raise ConfigurationError(signal, exporters, '"prometheus" takes metrics only')
    if settings.sampler.endswith("ratio") and settings.sampler_arg is not None and settings.sampler_arg > 1:
        raise ConfigurationError("sampler_arg", settings.sampler_arg, "a share of traces is between 0 and 1")
