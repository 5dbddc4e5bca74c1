"""Names, lazy targets and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import PluginError, UnknownNameError
from llamatelemetry.plugins import Registration, Registry

identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
dotted = st.lists(identifiers, min_size=1, max_size=3).map(".".join)


def test_a_target_is_resolved_when_asked_for_and_nested_attributes_are_followed() -> None:
    registry = Registry("thing")
    registry.add("decoder", "json:JSONDecoder.decode")
    assert registry.resolve("decoder") is json.JSONDecoder.decode


def test_adding_imports_nothing() -> None:
    registry = Registry("thing")
    registry.add("late", "this:s")
    assert "this" not in sys.modules
    assert [*registry] == [Registration(name="late", target="this:s")]


@given(name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True), module=dotted, attribute=dotted)
def test_every_wellformed_registration_is_kept_as_given(name: str, module: str, attribute: str) -> None:
    registry = Registry("thing")
    registry.add(name, f"{module}:{attribute}", summary="A thing.", plugin="me")
    assert name in registry
    assert registry.get(name) == Registration(
        name=name, target=f"{module}:{attribute}", summary="A thing.", plugin="me"
    )


@given(target=st.text(max_size=20))
def test_a_target_is_refused_or_has_exactly_one_colon_between_dotted_names(target: str) -> None:
    registry = Registry("thing")
    try:
        registry.add("name", target)
    except PluginError as error:
        assert "give a string such as" in str(error)  # noqa: PT017 - either outcome is right; each has its own check.
    else:
        module, attribute = target.split(":")
        assert all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def test_a_class_is_no_target() -> None:
    with pytest.raises(PluginError, match="thing 'decoder' has the target <class"):
        Registry("thing").add("decoder", json.JSONDecoder)  # type: ignore[arg-type] # What a plugin may try.


def test_a_taken_name_stays_with_the_first() -> None:
    registry = Registry("thing")
    registry.add("same", "json:loads", plugin="first")
    with pytest.raises(PluginError, match="already registered by plugin 'first'"):
        registry.add("same", "json:dumps", plugin="second")
    assert registry.resolve("same") is json.loads
    assert len(registry) == 1


def test_an_unknown_name_says_what_there_is_and_what_to_do() -> None:
    registry = Registry("thing")
    registry.add("b", "json:loads")
    registry.add("a", "json:dumps")
    with pytest.raises(UnknownNameError, match=r"no thing is named 'c'; registered: a, b\. Run: pip install c"):
        registry.get("c", "Run: pip install c")
