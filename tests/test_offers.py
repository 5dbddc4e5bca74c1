"""What core offers to install is what the distributions register, and the other way round."""

from __future__ import annotations

import pytest

from llamatelemetry.plugins import Registry, load_plugins
from llamatelemetry.plugins.offers import OFFERS


@pytest.fixture(scope="module")
def registered() -> dict[tuple[str, str], str]:
    """Kind and name of what our distributions register to the distribution."""
    plugins = load_plugins()
    owners = {report.name: report.distribution for report in plugins.reports}
    commands = Registry("command")
    plugins.add_commands(commands)
    found = {("command", each.name): owners[each.plugin] for each in commands if each.plugin}
    for registry in (plugins.backends, plugins.stages):
        found |= {(registry.kind, each.name): owners[each.plugin] for each in registry if each.plugin}
    return {key: owner for key, owner in found.items() if owner.startswith("llamatelemetry-")}


def test_whoever_asks_for_a_stage_or_a_verb_is_told_the_distribution_that_has_it(registered):
    offered = {key: offer.distribution for key, offer in OFFERS.items() if key[0] in {"command", "stage"}}

    here = {key: owner for key, owner in offered.items() if owner in registered.values()}
    assert here == {key: owner for key, owner in registered.items() if key[0] in {"command", "stage"}}


def test_every_offer_is_one_command():
    for offer in OFFERS.values():
        assert offer.command.startswith("pip install ")
        assert offer.distribution in offer.command
