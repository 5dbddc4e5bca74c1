from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.config import Settings
from llamatelemetry.otel.resource import build_resource


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


def attributes(settings: Settings | None = None, *more: dict[str, Any]) -> dict[str, Any]:
    return dict(build_resource(settings or Settings(), *more).attributes)


def test_it_says_which_service_instance_and_distribution_it_is() -> None:
    found = attributes(Settings(service_name="chat"))
    assert found["service.name"] == "chat"
    assert found["service.instance.id"]
    assert found["telemetry.sdk.language"] == "python"
    assert found["telemetry.distro.name"] == "llamatelemetry"
    assert found["telemetry.distro.version"]


def test_the_service_name_of_the_environment_holds_unless_another_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=from-env,team=a%20b")
    assert attributes()["service.name"] == "from-env"
    assert attributes()["team"] == "a b"
    assert attributes(Settings(service_name="mine"))["service.name"] == "mine"


def test_what_is_given_wins_over_the_environment_which_wins_over_what_is_detected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=env,b=env")
    found = attributes(None, {"a": "detected", "b": "detected", "c": "detected"}, {"a": "given"})
    assert (found["a"], found["b"], found["c"]) == ("given", "env", "detected")
