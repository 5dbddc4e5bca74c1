"""The two parts in this process; ``tests/test_zero_code.py`` runs the command they are for."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.instrumentation.dependencies import DependencyConflict, DependencyConflictError

import llamatelemetry as lt
from llamatelemetry.config import VARIABLES
from llamatelemetry.distro import CONFIG_FILE, UNREAD, LlamatelemetryConfigurator, LlamatelemetryDistro
from llamatelemetry.errors import ConfigurationError, MissingDependencyError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in os.environ:
        if name.startswith(("OTEL_", "LLAMATELEMETRY_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LlamatelemetryConfigurator, "failed", False)
    yield
    lt.shutdown()


class EntryPoint:
    """Of an instrumentor that does what it is made with."""

    name = "library"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.told: list[dict[str, Any]] = []

    def load(self) -> Any:
        return lambda: self

    def instrument(self, **kwargs: Any) -> None:
        self.told.append(kwargs)
        if self.error is not None:
            raise self.error


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname != "DEBUG"]


@pytest.mark.parametrize(
    ("group", "part"),
    [("opentelemetry_distro", LlamatelemetryDistro), ("opentelemetry_configurator", LlamatelemetryConfigurator)],
)
def test_opentelemetry_finds_both_parts_by_our_name(group: str, part: type) -> None:
    (entry_point,) = importlib.metadata.entry_points(group=group, name="llamatelemetry")
    assert entry_point.load() is part


def test_the_configurator_starts_telemetry_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLAMATELEMETRY_DIR", str(tmp_path / "here"))
    LlamatelemetryConfigurator().configure(auto_instrumentation_version="0.66b2", something_new=1)
    assert (tmp_path / "here").is_dir()
    assert not messages(caplog)
    LlamatelemetryConfigurator().configure()
    assert messages(caplog) == ["init() was called before: nothing changes; call shutdown() first to start anew"]
    assert not LlamatelemetryConfigurator.failed


def test_what_is_wrong_in_the_environment_is_one_line_and_no_library_is_touched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLAMATELEMETRY_GPU", "perhaps")
    LlamatelemetryConfigurator().configure(auto_instrumentation_version="0.66b2")
    assert messages(caplog) == [
        "llamatelemetry does not start: LLAMATELEMETRY_GPU='perhaps' is not valid: give true or false"
    ]
    entry_point = EntryPoint()
    LlamatelemetryDistro().load_instrumentor(entry_point, skip_dep_check=True)
    assert entry_point.told == []


def test_an_instrumentor_is_told_what_the_loader_says() -> None:
    entry_point = EntryPoint()
    LlamatelemetryDistro().load_instrumentor(entry_point, skip_dep_check=True)
    assert entry_point.told == [{"skip_dep_check": True}]


@pytest.mark.parametrize(
    "error", [DependencyConflictError(DependencyConflict("library")), ModuleNotFoundError("library"), ImportError("x")]
)
def test_what_the_loader_explains_itself_is_left_to_it(error: Exception) -> None:
    with pytest.raises(type(error)):
        LlamatelemetryDistro().load_instrumentor(EntryPoint(error))


@pytest.mark.parametrize(
    "error",
    [ConfigurationError("LLAMATELEMETRY_X", "y", "give z"), MissingDependencyError("it", "that", "pip install that")],
)
def test_an_error_of_ours_is_one_line(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    LlamatelemetryDistro().load_instrumentor(EntryPoint(error))
    assert messages(caplog) == [f"library is not instrumented: {error}"]
    assert caplog.records[0].exc_info is None


def test_an_error_of_somebody_else_is_said_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    LlamatelemetryDistro().load_instrumentor(EntryPoint(RuntimeError("no such function")))
    assert messages(caplog) == ["library is not instrumented"]
    assert caplog.records[0].exc_info


def test_the_distro_names_its_configurator_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_CONFIGURATOR", "theirs")
    LlamatelemetryDistro().configure()
    assert os.environ["OTEL_PYTHON_CONFIGURATOR"] == "theirs"
    monkeypatch.delenv("OTEL_PYTHON_CONFIGURATOR")
    LlamatelemetryDistro().configure()
    assert os.environ["OTEL_PYTHON_CONFIGURATOR"] == "llamatelemetry"
    monkeypatch.setenv("OTEL_PYTHON_CONFIGURATOR", "")
    LlamatelemetryDistro().configure()
    assert os.environ["OTEL_PYTHON_CONFIGURATOR"] == "llamatelemetry", "an empty variable is none"


def test_no_variable_is_both_read_and_said_to_be_unread() -> None:
    assert not {variable.name for variable in VARIABLES} & {*UNREAD, CONFIG_FILE}


@pytest.mark.parametrize(("value", "said"), [("true", 1), ("false", 0), ("False", 0), ("", 0)])
def test_a_variable_that_is_off_is_not_worth_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str, said: int
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED", value)
    LlamatelemetryConfigurator().configure()
    assert len(messages(caplog)) == said
