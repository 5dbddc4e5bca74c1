"""The guide to tracing without code names what is read, traced and left unread, as the code says it."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from llamatelemetry.config import VARIABLES
from llamatelemetry.distro import UNREAD


@pytest.fixture
def guide(root: Path) -> str:
    return (root / "docs" / "auto-instrumentation.md").read_text()


def test_the_guide_has_every_variable_with_its_setting_in_order(guide: str):
    listed = re.findall(r"^\| `(\w+)` \| `(\w+)` \| .+ \|$", guide, re.MULTILINE)

    assert listed == [(variable.name, variable.field) for variable in VARIABLES]


def test_the_guide_has_every_variable_that_is_not_read_with_what_to_do_instead(guide: str):
    _, _, below = guide.partition("| Variable | Instead |\n| --- | --- |\n")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", below, re.MULTILINE))

    assert listed == dict(UNREAD)


def test_the_guide_has_every_instrumentor_of_ours_by_its_name(guide: str):
    ours = {point.name for point in entry_points(group="opentelemetry_instrumentor") if point.value.startswith("llama")}
    _, _, below = guide.partition("## What is traced\n")
    table, _, _ = below.partition("\nThe first comes with")

    assert set(re.findall(r"\| `(\w+)` \|$", table, re.MULTILINE)) == ours
