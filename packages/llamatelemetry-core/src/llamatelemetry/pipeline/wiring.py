"""Which artifact goes into which input, settled before anything runs.

An input that is not wired takes what has its name and its kind, if there is exactly one such thing
before it; and otherwise the only thing of its kind. Two candidates are an error, because
quantizing what was quantized already would work, and be wrong. An optional input that is wired to nothing
stays empty, whatever would fit.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from llamatelemetry.errors import StageInputError
from llamatelemetry.pipeline.nodes import GIVEN, NOTHING, Node
from llamatelemetry.pipeline.stage import Port

Wiring = Mapping[str, Mapping[str, str]]
"""Id of a stage to its inputs' names to their sources: ``f16.model`` or ``inputs.model``."""


def wire(nodes: Sequence[Node], given: Mapping[str, str | None]) -> Wiring:
    """Where every input comes from; an optional one that nothing fits is left out.

    Args:
        nodes: The stages in the order in which they run.
        given: What the pipeline is given: names to kinds, None where the kind is not known.

    Raises:
        StageInputError: An input has no source, several, or one of another kind.
    """
    kinds: dict[str, str | None] = {f"{GIVEN}.{name}": kind for name, kind in given.items()}
    later = [f"{node.id}.{port.name}" for node in nodes for port in node.stage.outputs]
    wiring: dict[str, dict[str, str]] = {}
    for node in nodes:
        found = wiring[node.id] = {}
        for port in node.stage.inputs:
            wanted = node.inputs.get(port.name)
            if wanted == NOTHING:
                _check_optional(node, port)
                continue
            source = _found(node, port, kinds) if wanted is None else _wanted(node, port, wanted, kinds, later)
            if source is None:
                continue
            found[port.name] = source
            # From here on a thing of unknown kind is what it was first taken for.
            kinds[source] = kinds[source] or port.kind
        kinds.update({f"{node.id}.{port.name}": port.kind for port in node.stage.outputs})
    return wiring


def kinds_given(nodes: Sequence[Node], wiring: Wiring) -> dict[str, str]:
    """What the pipeline is given and takes, by name, with the kind that it is taken for."""
    return {
        source.removeprefix(f"{GIVEN}."): port.kind
        for node in nodes
        for port in node.stage.inputs
        if (source := wiring[node.id].get(port.name, "")).startswith(f"{GIVEN}.")
    }


def _check_optional(node: Node, port: Port) -> None:
    if not port.optional:
        raise StageInputError(node.id, port.name, NOTHING, "the stage does not run without it; say where it comes from")


def _wanted(node: Node, port: Port, wanted: str, kinds: Mapping[str, str | None], all_outputs: Sequence[str]) -> str:
    if wanted not in kinds:
        if wanted in all_outputs:
            raise StageInputError(node.id, port.name, wanted, "that stage comes later; put it before this one")
        close = difflib.get_close_matches(wanted, kinds, n=1)
        fix = f"did you mean {close[0]}?" if close else f"take one of {_listed(kinds)}"
        raise StageInputError(node.id, port.name, wanted, f"nothing before it is named so; {fix}")
    kind = kinds[wanted]
    if kind is not None and kind != port.kind:
        raise StageInputError(node.id, port.name, wanted, f"it takes a {port.kind}, and that is a {kind}")
    return wanted


def _found(node: Node, port: Port, kinds: Mapping[str, str | None]) -> str | None:
    fitting = [source for source, kind in kinds.items() if kind in {port.kind, None}]
    named = [source for source in fitting if source.partition(".")[2] == port.name]
    # What has another name must be known to be of the kind.
    candidates = named or [source for source in fitting if kinds[source] == port.kind]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        fix = f"several {port.kind} fit: write one of {', '.join(candidates)}"
        raise StageInputError(node.id, port.name, None, fix)
    if port.optional:
        return None
    there = f"there are {_listed(kinds)}" if kinds else "there is nothing before it, and nothing is given"
    fix = f"it takes a {port.kind}, and {there}; give the pipeline one as {GIVEN}.{port.name}"
    raise StageInputError(node.id, port.name, None, fix)


def _listed(kinds: Mapping[str, str | None]) -> str:
    return ", ".join(f"{source} ({kind or 'of unknown kind'})" for source, kind in kinds.items())
