"""What ``llamatelemetry doctor`` looks at, each as a :class:`~llamatelemetry.plugins.Check`."""

from __future__ import annotations

import os
import platform
import socket
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from llamatelemetry.config import Settings, resolve_settings
from llamatelemetry.errors import ConfigurationError
from llamatelemetry.otel.delivery import Signal
from llamatelemetry.otel.otlp import signal_endpoint, signal_protocol
from llamatelemetry.plugins import Check, CheckState, PluginReport, PluginState
from llamatelemetry.readers import without_credentials

_OURS: Final = "llamatelemetry-"
_NEEDED: Final = {
    "OTel API": "opentelemetry-api",
    "OTel SDK": "opentelemetry-sdk",
    "OTLP/HTTP": "opentelemetry-exporter-otlp-proto-http",
}
_EXTRAS: Final = {
    "grpc": "opentelemetry-exporter-otlp-proto-grpc",
    "prometheus": "opentelemetry-exporter-prometheus",
}
_CONNECT_TIMEOUT_S: Final = 1.0
_ANSWER_TIMEOUT_S: Final = 3.0
"""Of a name that is looked up and each of its addresses."""


def ok(name: str, detail: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name=name, state=CheckState.OK, detail=detail)


def error(name: str, detail: str, fix: str) -> Check:
    """A check that found something that does not work."""
    return Check(name=name, state=CheckState.ERROR, detail=detail, fix=fix)


def warning(name: str, detail: str, fix: str) -> Check:
    """A check that found something that works, though perhaps not as meant."""
    return Check(name=name, state=CheckState.WARNING, detail=detail, fix=fix)


def check_installed() -> list[Check]:
    """Python, our distributions, OpenTelemetry and core's extras."""
    names = {str(item.metadata["Name"]).lower() for item in distributions()}
    checks = [ok("python", f"{platform.python_version()}, {platform.machine()} {platform.system()}")]
    checks += [ok(name, version(name)) for name in sorted(names) if name.startswith(_OURS)]
    for name, needed in _NEEDED.items():
        found = _version(needed)
        checks.append(ok(name, f"{needed} {found}") if found else error(name, "not installed", f"pip install {needed}"))
    for extra, name in _EXTRAS.items():
        checks.append(ok(f"[{extra}]", f"{name} {_version(name) or 'is not installed; optional'}"))
    return checks


def check_environment(environ: Mapping[str, str]) -> tuple[Settings, list[Check]]:
    """Resolves settings; each variable that cannot be used becomes a check and is then left aside."""
    usable = dict(environ)
    checks: list[Check] = []
    while True:
        try:
            return resolve_settings({}, usable), checks
        except ConfigurationError as problem:
            checks.append(error(problem.field, str(problem), problem.fix))
            if problem.field not in usable:
                return Settings(), checks  # Variables that are fine alone and not together: nothing to leave aside.
            del usable[problem.field]


def check_settings(settings: Settings) -> list[Check]:
    """What ``init()`` would do with these settings, and whether it could."""
    if settings.disabled:
        return [warning("telemetry", "OTEL_SDK_DISABLED=true: init() does nothing", "unset OTEL_SDK_DISABLED")]
    exporters = {*settings.traces_exporters, *settings.metrics_exporters, *settings.logs_exporters}
    checks = [
        ok("service name", settings.service_name),
        ok("traces", ", ".join(settings.traces_exporters)),
        ok("metrics", ", ".join(settings.metrics_exporters)),
        ok("logs", ", ".join(settings.logs_exporters)),
    ]
    if "otlp" in exporters:
        checks += _check_otlp(settings)
    if "prometheus" in exporters:
        checks.append(_check_extra("prometheus", "OTEL_METRICS_EXPORTER=prometheus"))
        checks.append(_check_port(settings.prometheus_host, settings.prometheus_port))
    if "file" in exporters:
        checks.append(_check_folder(settings.telemetry_dir))
    argument = "" if settings.sampler_arg is None else f" {settings.sampler_arg:g}"
    return [
        *checks,
        ok("sampler", settings.sampler + argument),
        ok("semconv", ", ".join(settings.semconv)),
        ok("content", settings.capture_content),
    ]


def check_plugins(reports: tuple[PluginReport, ...], settings: Settings) -> list[Check]:
    """Each plugin's report, and names in the lists that no plugin has."""
    checks = [_check_plugin(report) for report in reports]
    known = {report.name for report in reports}
    for variable, names in (
        ("LLAMATELEMETRY_PLUGINS", settings.plugins or ()),
        ("LLAMATELEMETRY_DISABLED_PLUGINS", settings.disabled_plugins),
    ):
        for name in names:
            if name not in known:
                installed = ", ".join(sorted(known)) or "none"
                checks.append(
                    warning(variable, f"no plugin is named {name!r}; installed: {installed}", f"unset {variable}")
                )
    return checks


def _check_plugin(report: PluginReport) -> Check:
    name, origin = report.name, f"{report.distribution} {report.version}"
    if report.state is PluginState.LOADED:
        return ok(name, origin)
    detail = f"{origin}, {report.state}: " + (report.error or "").replace("\n", "; ")
    if report.state is PluginState.DISABLED:
        return ok(name, detail)
    return error(name, detail, report.fix or "")


def _check_otlp(settings: Settings) -> list[Check]:
    signals: tuple[Signal, ...] = ("traces", "metrics", "logs")
    sent = [signal for signal in signals if "otlp" in getattr(settings, f"{signal}_exporters")]
    endpoints = dict.fromkeys(signal_endpoint(settings, signal) for signal in sent)
    checks = [_check_endpoint(endpoint) for endpoint in endpoints]
    if any(signal_protocol(settings, signal) == "grpc" for signal in sent):
        checks.append(_check_extra("grpc", "OTLP over gRPC"))
    return checks


def _check_endpoint(endpoint: str) -> Check:
    name, shown = "OTLP endpoint", without_credentials(endpoint)
    fix = "start a collector there; or unset OTEL_EXPORTER_OTLP_ENDPOINT and otlp among the exporters, to write files"
    try:
        parts = urlsplit(endpoint)
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    except ValueError as problem:  # The variables are held to more; this is what a plugin may have made of them.
        return error(name, f"{shown} is not a URL: {problem}", "give a URL such as http://127.0.0.1:4318")
    silence = _reason_of_silence(address)
    if silence is not None:
        return error(name, f"{shown} does not answer: {silence}", fix)
    return ok(name, f"{shown} answers")


def _reason_of_silence(address: tuple[str, int]) -> str | None:
    """Why nothing answers at an address; None if something does."""
    answers: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=_CONNECT_TIMEOUT_S).close()
        except (OSError, UnicodeError) as problem:
            answers.append(str(problem))
        else:
            answers.append(None)

    # In a thread, because a name server that is not there is waited for as long as the system likes.
    thread = threading.Thread(target=connect, name="llamatelemetry-doctor", daemon=True)
    thread.start()
    thread.join(_ANSWER_TIMEOUT_S)
    return answers[0] if answers else f"nothing came of it in {_ANSWER_TIMEOUT_S:g} s"


def _check_port(host: str, port: int) -> Check:
    name, place = "scrape endpoint", f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
    try:
        # The family of the address is the one that the server takes.
        [(family, *_), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.create_server((host, port), family=family):
            return ok(name, place)
    except (OSError, UnicodeError) as problem:
        return error(name, f"{place} cannot be served: {problem}", "set OTEL_EXPORTER_PROMETHEUS_PORT to a free port")


def _check_folder(folder: Path) -> Check:
    name, whole = "telemetry folder", folder.absolute()
    fix = "set LLAMATELEMETRY_DIR to a folder you can write to"
    try:
        existing = next(place for place in (whole, *whole.parents) if place.exists())
    except OSError as problem:
        return error(name, str(problem), fix)
    if not existing.is_dir():
        return error(name, f"{existing} is a file", fix)
    if not os.access(existing, os.W_OK | os.X_OK):
        return error(name, f"{existing} is not writable", fix)
    return ok(name, str(whole) + ("" if existing == whole else ", will be made"))


def _check_extra(extra: str, reason: str) -> Check:
    name = _EXTRAS[extra]
    found = _version(name)
    if found:
        return ok(extra, f"{reason} uses {name} {found}")
    return error(extra, f"{reason} needs {name}", f"pip install 'llamatelemetry-core[{extra}]'")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
