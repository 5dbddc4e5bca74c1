"""The verbs there are, as names and lazy targets."""

from __future__ import annotations

from typing import Final

from llamatelemetry.plugins import Registry

_BUILT_IN: Final = (
    ("deploy", "llamatelemetry.cli.deploy:deploy", "Put a model behind a server that stays, and look after it."),
    ("doctor", "llamatelemetry.cli.doctor:doctor", "Say what is installed, what would be used and what is wrong."),
    ("gpu", "llamatelemetry.cli.gpu:gpu", "Show what the GPUs do: memory, utilization, power, energy."),
    ("manifest", "llamatelemetry.cli.manifest:manifest", "Say what an artifact is made of, and hold it to that."),
    ("pipeline", "llamatelemetry.cli.pipeline:pipeline", "Run stages that make artifacts, and show what came of them."),
    ("plan", "llamatelemetry.cli.plan:plan", "Say what of a model goes where, and whether it fits."),
    ("plugins", "llamatelemetry.cli.plugins:plugins", "List the installed plugins and what became of them."),
    ("replay", "llamatelemetry.cli.replay:replay", "Send telemetry files to an OTLP/HTTP endpoint."),
    ("topo", "llamatelemetry.cli.topo:topo", "Show how the GPUs are linked to each other, to CPUs and to memory."),
)


def built_in_verbs() -> Registry:
    """A new registry of the verbs that core brings; plugins' verbs are added to it."""
    verbs = Registry("command")
    for name, target, summary in _BUILT_IN:
        verbs.add(name, target, summary=summary)
    return verbs
