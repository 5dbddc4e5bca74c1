"""The way in and out: ``init``, ``flush``, ``shutdown``, and engines over what is already running.

It wires rooms together and decides nothing itself.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.config import (
    CaptureContent,
    Exporter,
    Profile,
    Protocol,
    Redaction,
    Sampler,
    Settings,
    beside_providers,
    resolve_settings,
)
from llamatelemetry.forks import at_end_of_this_worker, at_end_of_worker
from llamatelemetry.gpu.energy import WorkWeights
from llamatelemetry.gpu.monitor import start_monitor
from llamatelemetry.inference import live
from llamatelemetry.inference.sink import SpanEnricher
from llamatelemetry.otel.delivery import ShutdownReport
from llamatelemetry.otel.runtime import Telemetry
from llamatelemetry.plugins import load_plugins

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.inference.engine import InferenceEngine

_logger = logging.getLogger(__name__)
_LONGEST_WAIT_S: Final = 86_400.0
"""Of a wait without an end, which no thread can be told to make."""
_lock = threading.RLock()
_telemetry: Telemetry | None = None


def init(
    service_name: str | None = None,
    otlp_endpoint: str | None = None,
    *,
    otlp_protocol: Protocol | None = None,
    otlp_headers: Mapping[str, str] | None = None,
    exporters: Exporter | Sequence[Exporter] | None = None,
    traces_exporters: Exporter | Sequence[Exporter] | None = None,
    metrics_exporters: Exporter | Sequence[Exporter] | None = None,
    logs_exporters: Exporter | Sequence[Exporter] | None = None,
    telemetry_dir: str | Path | None = None,
    file_max_bytes: int | None = None,
    file_max_count: int | None = None,
    prometheus_host: str | None = None,
    prometheus_port: int | None = None,
    metric_interval_s: float | None = None,
    sampler: Sampler | None = None,
    sampler_arg: float | None = None,
    semconv: Profile | Sequence[Profile] | None = None,
    capture_content: CaptureContent | None = None,
    redaction: Redaction | None = None,
    redact_patterns: Sequence[str] | None = None,
    redact_keys: Sequence[str] | None = None,
    plugins: Sequence[str] | None = None,
    disabled_plugins: Sequence[str] | None = None,
    gpu: bool | None = None,
    gpu_interval_s: float | None = None,
    gpu_idle_power_w: float | None = None,
    gpu_work_weights: WorkWeights | None = None,
    shutdown_timeout_s: float | None = None,
    resource_attributes: Mapping[str, str | bool | int | float] | None = None,
    span_processors: Iterable[SpanProcessor] = (),
    enrichers: Iterable[SpanEnricher] = (),
) -> Settings:
    """Starts telemetry: every request of every engine is traced and measured from now on.

    What is not given here is read from the environment, then from the defaults of
    :class:`~llamatelemetry.Settings`, whose attributes explain the arguments not listed below.
    Where the process has a global provider already, that one is used instead of a second one.
    Called again before :func:`shutdown`, it warns and changes nothing.

    Args:
        service_name: ``service.name`` of the resource.
        otlp_endpoint: Base URL of an OTLP receiver; without one telemetry goes to files.
        otlp_protocol: ``http/protobuf`` or ``grpc``.
        otlp_headers: Extra headers for each export.
        exporters: Short for all three below, each taking the ones that make sense for it:
            ``prometheus`` takes metrics only, and ``console`` shows requests only.
        traces_exporters: Where spans go.
        metrics_exporters: Where metrics go.
        logs_exporters: Where log records go.
        telemetry_dir: Folder of the telemetry files.
        file_max_bytes: Size at which a file is rotated.
        file_max_count: Files kept per signal.
        prometheus_host: Address of the scrape endpoint.
        prometheus_port: Port of the scrape endpoint; 0 takes a free one.
        metric_interval_s: Seconds between two metric exports.
        sampler: Which traces are kept.
        sampler_arg: The sampler's share or seconds.
        semconv: Profiles to emit.
        capture_content: Whether prompts and answers are exported.
        redaction: What replaces secrets.
        redact_patterns: More regular expressions of secrets.
        redact_keys: Attribute keys whose value is a secret.
        plugins: Plugins that may load.
        disabled_plugins: Plugins that may not.
        gpu: Whether GPUs are measured, where there are any.
        gpu_interval_s: Seconds between two samples of a GPU.
        gpu_idle_power_w: What a GPU draws when idle, in watts.
        gpu_work_weights: What prefill and decode cost relative to each other, where requests share a GPU.
        shutdown_timeout_s: Most seconds for :func:`shutdown` and interpreter exit.
        resource_attributes: More attributes of the resource.
        span_processors: OpenTelemetry span processors that see every recorded span.
        enrichers: Add attributes to inference spans, besides those that plugins bring.

    Returns:
        The settings in force, with the port that ``prometheus_port=0`` was given.

    Raises:
        ConfigurationError: An argument or variable is wrong; nothing was started.
        MissingDependencyError: An exporter's extra is not installed; nothing was started.
    """
    by_signal = _spread(exporters)
    given = {
        "service_name": service_name,
        "otlp_endpoint": otlp_endpoint,
        "otlp_protocol": otlp_protocol,
        "otlp_headers": otlp_headers,
        "traces_exporters": by_signal["traces"] if traces_exporters is None else traces_exporters,
        "metrics_exporters": by_signal["metrics"] if metrics_exporters is None else metrics_exporters,
        "logs_exporters": by_signal["logs"] if logs_exporters is None else logs_exporters,
        "telemetry_dir": telemetry_dir,
        "file_max_bytes": file_max_bytes,
        "file_max_count": file_max_count,
        "prometheus_host": prometheus_host,
        "prometheus_port": prometheus_port,
        "metric_interval_s": metric_interval_s,
        "sampler": sampler,
        "sampler_arg": sampler_arg,
        "semconv": semconv,
        "capture_content": capture_content,
        "redaction": redaction,
        "redact_patterns": redact_patterns,
        "redact_keys": redact_keys,
        "plugins": plugins,
        "disabled_plugins": disabled_plugins,
        "gpu": gpu,
        "gpu_interval_s": gpu_interval_s,
        "gpu_idle_power_w": gpu_idle_power_w,
        "shutdown_timeout_s": shutdown_timeout_s,
    }
    return _begin(
        lambda: resolve_settings(given),
        weights=gpu_work_weights,
        enrichers=enrichers,
        span_processors=span_processors,
        resource_attributes=resource_attributes,
    )


def init_beside_providers() -> Settings:
    """:func:`init` where a file made the providers: no variable that chooses exporters or a sampler is looked at.

    Raises:
        ConfigurationError: Another variable is wrong; nothing was started.
    """
    nowhere = dict.fromkeys(("traces_exporters", "metrics_exporters", "logs_exporters"), "none")
    return _begin(lambda: resolve_settings(nowhere, beside_providers()))


def _begin(
    resolve: Callable[[], Settings],
    *,
    weights: WorkWeights | None = None,
    enrichers: Iterable[SpanEnricher] = (),
    span_processors: Iterable[SpanProcessor] = (),
    resource_attributes: Mapping[str, Any] | None = None,
) -> Settings:
    global _telemetry  # noqa: PLW0603 - a process has one telemetry, as it has one global provider
    with _lock:
        if _telemetry is not None:
            _logger.warning("init() was called before: nothing changes; call shutdown() first to start anew")
            return _telemetry.settings
        settings = resolve()
        if settings.disabled:
            _logger.info("OTEL_SDK_DISABLED is true: no telemetry")
            return settings
        loaded = load_plugins(settings)
        settings = loaded.configure(settings)
        with ExitStack() as undo:
            monitor = None
            if settings.gpu:
                monitor = start_monitor(
                    interval_s=settings.gpu_interval_s,
                    idle_power_w=settings.gpu_idle_power_w,
                    weights=weights,
                )
            if monitor is not None:
                undo.callback(monitor.close)
            _telemetry = Telemetry(
                settings,
                enrichers=[*enrichers, *loaded.enrichers()],
                span_processors=[*span_processors],
                detected=loaded.detect_resource(settings),
                resource_attributes=resource_attributes,
                gpu=monitor,
            )
            undo.pop_all()
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
        at_end_of_this_worker(_at_end_of_worker)
        return _telemetry.settings


def flush(timeout_s: float = 10.0) -> bool:
    """Sends everything recorded so far.

    Args:
        timeout_s: Most seconds to wait.

    Returns:
        Whether all of it arrived; True if telemetry was not started.
    """
    telemetry = _telemetry
    return telemetry is None or telemetry.flush(min(timeout_s, _LONGEST_WAIT_S))


def shutdown(timeout_s: float | None = None) -> ShutdownReport:
    """Sends what is left and stops telemetry; :func:`init` works again afterwards.

    Called by itself when the interpreter exits.

    Args:
        timeout_s: Most seconds it may take, whatever the receivers do; the setting when None.

    Returns:
        What arrived and what was lost, which is also logged.
    """
    return _end(timeout_s)


def _end(timeout_s: float | None = None, *, others_too: bool = False) -> ShutdownReport:
    global _telemetry
    with _lock:
        telemetry, _telemetry = _telemetry, None
        if telemetry is None:
            return ShutdownReport()
        if timeout_s is None:
            timeout_s = telemetry.settings.shutdown_timeout_s
        return telemetry.shutdown(min(timeout_s, _LONGEST_WAIT_S), others_too=others_too)


def instrument_llamacpp(server_url: str) -> InferenceEngine:
    """An engine over a llama-server that is already running.

    Args:
        server_url: Its base URL, for example ``http://127.0.0.1:8080``.

    Raises:
        UnknownNameError: llamatelemetry-llamacpp is not installed.
        BackendStartError: The server does not become ready.
    """
    from llamatelemetry.inference.engine import InferenceEngine

    return InferenceEngine("llamacpp", server_url=server_url)


def instrument_transformers(model: Any, tokenizer: Any = None) -> InferenceEngine:
    """An engine over a model of transformers that is loaded already.

    Requests run in one continuous batch where that gives the model's own answers. Until the engine is
    closed, the model's attention may be one that reads pages.

    Args:
        model: A ``PreTrainedModel``.
        tokenizer: Its tokenizer; where the model is from, when None.

    Raises:
        UnknownNameError: llamatelemetry-transformers is not installed.
        InvalidValueError: It is no such model, or is in training mode, or no tokenizer is found.
        OutOfMemoryError: There is no room for the cache.
    """
    from llamatelemetry.inference.engine import InferenceEngine

    return InferenceEngine("transformers", model_or_id=model, tokenizer=tokenizer)


def _spread(exporters: Exporter | Sequence[Exporter] | None) -> dict[str, Sequence[str] | None]:
    if exporters is None:
        return {"traces": None, "metrics": None, "logs": None}
    names = (exporters,) if isinstance(exporters, str) else exporters
    unfit = {"traces": {"prometheus"}, "metrics": {"console"}, "logs": {"console", "prometheus"}}
    return {signal: [name for name in names if name not in unfit[signal]] or ["none"] for signal in unfit}


def _at_exit() -> None:
    # Engines first: what they cancel still has spans to end.
    live.close_all()
    shutdown()


def _at_end_of_worker() -> None:
    # Providers that are not ours wait for an end of the interpreter, which never comes here.
    live.close_all()
    _end(others_too=True)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held the old one
    _lock = threading.RLock()
    if _telemetry is not None:
        at_end_of_worker(_at_end_of_worker)


os.register_at_fork(after_in_child=_after_fork)
