"""Requirements are judged against what is really installed here."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from llamatelemetry.plugins import PluginState
from llamatelemetry.plugins.requirements import find_obstacle

CORE = version("llamatelemetry-core")


@pytest.mark.parametrize(
    "requires",
    [
        (),
        ("llamatelemetry-core",),
        (f"LlamaTelemetry.Core=={CORE}",),
        ("llamatelemetry-core>=0.1,<99", "click>=8", "nowhere; extra == 'more'"),
        ("click>=99",),  # Only core's version is compared.
    ],
)
def test_requirements_that_hold_are_no_obstacle(requires: tuple[str, ...]) -> None:
    assert find_obstacle("mine", requires) is None


def test_several_missing_dependencies_are_one_command() -> None:
    obstacle = find_obstacle(
        "mine", ("nowhere-one>=1", "click", "nowhere-two @ https://example.org/two.whl ; python_version>'3'")
    )
    assert obstacle is not None
    assert obstacle.state is PluginState.MISSING_DEPENDENCY
    assert obstacle.error.endswith("nowhere-one, nowhere-two")
    assert obstacle.fix == "pip install 'nowhere-one>=1' 'nowhere-two @ https://example.org/two.whl'"


@pytest.mark.parametrize("text", ["???", "click >>> 8", "click; no_such_marker == 'x'"])
def test_a_requirement_that_cannot_be_understood_is_a_failure_that_quotes_it(text: str) -> None:
    obstacle = find_obstacle("mine", (text,))
    assert obstacle is not None
    assert obstacle.state is PluginState.FAILED
    assert repr(text) in obstacle.error
