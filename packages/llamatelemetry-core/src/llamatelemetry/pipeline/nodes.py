"""A stage at its place in a pipeline, and the checks that it can stand there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llamatelemetry.artifacts import checks
from llamatelemetry.errors import InvalidManifestError, PipelineDefinitionError
from llamatelemetry.pipeline.stage import Port, Stage

GIVEN: Final = "inputs"
"""What stands in a wire for a stage where the pipeline itself is given something: ``inputs.model``."""
NOTHING: Final = ""
"""What stands in a wire for an optional input that is to stay empty."""
_WORD: Final = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FIX: Final = "use letters, digits, dashes and underscores, 64 at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A stage at its place in a pipeline.

    Attributes:
        stage: The stage.
        id: Its name in the pipeline; the stage's own where empty.
        inputs: Where inputs come from: ``model`` to ``f16.model``, which is the output ``model`` of the stage
            ``f16``, or to ``inputs.model``, which the pipeline is given. What is left out is found; an optional one
            that is wired to ``""`` stays empty.
    """

    stage: Stage
    id: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)


def nodes_of(stages: Sequence[Stage | Node]) -> tuple[Node, ...]:
    """The stages with their places, once each was found to be one.

    Raises:
        PipelineDefinitionError: One is no stage, says something that no stage may say, or has the id of another.
    """
    if not stages:
        raise PipelineDefinitionError("stages", [], "give at least one")
    found: dict[str, Node] = {}
    for index, each in enumerate(stages):
        node = each if isinstance(each, Node) else Node(stage=each)
        where = f"stages[{index}]"
        check_stage(where, node.stage)
        node = Node(stage=node.stage, id=node.id or node.stage.name, inputs=dict(node.inputs))
        if not _WORD.fullmatch(node.id) or node.id == GIVEN:
            raise PipelineDefinitionError(f"{where}.id", node.id, f"{_FIX}, and not {GIVEN}")
        if node.id in found:
            raise PipelineDefinitionError(f"{where}.id", node.id, "another stage has it; give this one its own")
        known = [port.name for port in node.stage.inputs]
        for name in node.inputs:
            if name not in known:
                fix = f"stage {node.stage.name!r} has the inputs {', '.join(known) or 'none'}"
                raise PipelineDefinitionError(f"{where}.inputs.{name}", node.inputs[name], fix)
        found[node.id] = node
    return tuple(found.values())


def check_stage(where: str, stage: object) -> None:
    """Holds an object to be a stage whose names, ports, parameters and tools can be used.

    Args:
        where: What it is called in errors.
        stage: The object.

    Raises:
        PipelineDefinitionError: It is not; the error names the field.
    """
    if not isinstance(stage, Stage):
        fix = "give a stage: name, version, inputs, outputs, parameters, tools and run(context)"
        raise PipelineDefinitionError(where, stage, fix)
    if not isinstance(stage.name, str) or not _WORD.fullmatch(stage.name):
        raise PipelineDefinitionError(f"{where}.name", stage.name, _FIX)
    try:
        checks.text(f"{where}.version", stage.version)
        checks.copied_object(f"{where}.parameters", stage.parameters)
        for name, version in checks.copied_object(f"{where}.tools", stage.tools).items():
            checks.text(f"{where}.tools.{name}", version)
        for side, ports in (("inputs", stage.inputs), ("outputs", stage.outputs)):
            _check_ports(f"{where}.{side}", ports)
    except InvalidManifestError as error:
        raise PipelineDefinitionError(error.field, error.value, error.fix) from None


def _check_ports(where: str, ports: Sequence[Port]) -> None:
    names = set()
    for port in ports:
        if not isinstance(port, Port):
            raise PipelineDefinitionError(where, port, "give llamatelemetry.pipeline.Port objects")
        if not _WORD.fullmatch(port.name):
            raise PipelineDefinitionError(f"{where}.name", port.name, _FIX)
        if port.name in names:
            raise PipelineDefinitionError(f"{where}.name", port.name, "name each once")
        checks.kind(f"{where}.{port.name}.kind", port.kind)
        names.add(port.name)
