"""A pipeline as a TOML file says it.

::

    [pipeline]
    name = "smollm2"
    store = "artifacts"              # Where what is made is kept, from the file's folder.
    base_model = "SmolLM2-135M"      # And adapter, dataset, quantization, artifact, parameters: what it is about.

    [inputs]
    model = "checkpoints/smollm2"    # What it is given.

    [[stage]]
    use = "export_gguf"              # The name that a stage is registered by.
    id = "f16"                       # Its name here; as above where left out.
    inputs = { model = "inputs.model" }
    parameters = { type = "F16" }
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.errors import PipelineDefinitionError, StageInputError, UnknownNameError
from llamatelemetry.pipeline.context import PipelineContext
from llamatelemetry.pipeline.nodes import NOTHING, Node, check_stage
from llamatelemetry.pipeline.parameters import make_stage
from llamatelemetry.pipeline.runner import Pipeline
from llamatelemetry.pipeline.wiring import Wiring

MAX_BYTES: Final = 2**20
DEFAULT_STORE: Final = "llamatelemetry-artifacts"
_TOP: Final = ("pipeline", "inputs", "stage")
_TEXTS: Final = ("base_model", "adapter", "dataset", "quantization", "artifact")
_PIPELINE: Final = ("name", "store", *_TEXTS, "parameters")
_STAGE: Final = ("use", "id", "inputs", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEntry:
    """One ``[[stage]]``: fields as they stand there."""

    use: str
    id: str
    inputs: Mapping[str, str]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a file says.

    Attributes:
        path: The file.
        about: Fields of a :class:`PipelineContext`.
        store: Where what is made is kept.
        inputs: What the pipeline is given: names to paths.
        stages: Its stages, in order.
    """

    path: Path
    about: Mapping[str, Any]
    store: Path
    inputs: Mapping[str, Path]
    stages: tuple[StageEntry, ...]

    def context(self, run_id: str | None = None) -> PipelineContext:
        """What a run of it is about.

        Raises:
            PipelineDefinitionError: The run's id or a field cannot be used.
        """
        about = self.about if run_id is None else {**self.about, "run_id": run_id}
        return PipelineContext(**about).with_commit(self.path.parent)

    def build(self, resolve: Callable[[str], type]) -> Pipeline:
        """Its pipeline.

        Args:
            resolve: From the name of a stage to its class, as :meth:`llamatelemetry.plugins.Plugins.resolve_stage`.

        Raises:
            PipelineDefinitionError: A stage is not known, or its parameters cannot be used.
            PluginError: A stage cannot be imported.
        """
        nodes = []
        for index, entry in enumerate(self.stages):
            where = f"stage[{index}]"
            try:
                stage_class = resolve(entry.use)
                made = make_stage(stage_class, entry.parameters, where=f"{where}.parameters", folder=self.path.parent)
                check_stage(where, made)
            except UnknownNameError as error:
                raise PipelineDefinitionError(f"{where}.use", entry.use, str(error), path=self.path) from None
            except PipelineDefinitionError as error:
                raise self._located(error) from error
            nodes.append(Node(stage=made, id=entry.id, inputs=entry.inputs))
        try:
            return Pipeline(nodes)
        except PipelineDefinitionError as error:
            field = error.field.replace("stages[", "stage[", 1)
            raise PipelineDefinitionError(field, error.value, error.fix, path=self.path) from None

    def wire(self, pipeline: Pipeline) -> Wiring:
        """Where every input of its pipeline comes from; nothing is run.

        Raises:
            PipelineDefinitionError: An input has no source, several, or one of another kind; the error names the field.
        """
        try:
            return pipeline.wire(dict.fromkeys(self.inputs))
        except StageInputError as error:
            index = [node.id for node in pipeline.nodes].index(error.stage)
            field = f"stage[{index}].inputs.{error.input}"
            raise PipelineDefinitionError(field, error.value, error.fix, path=self.path) from None
        except PipelineDefinitionError as error:
            raise self._located(error) from None

    def _located(self, error: PipelineDefinitionError) -> PipelineDefinitionError:
        return PipelineDefinitionError(error.field, error.value, error.fix, path=self.path)


def read_definition(path: Path) -> Definition:
    """What a file says; stages are not looked for yet.

    Raises:
        PipelineDefinitionError: It cannot be read, or says something that no such file says; the error names the field.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise PipelineDefinitionError("size_bytes", f"over {MAX_BYTES}", "a pipeline is a small file", path=path)
        data = tomllib.loads(content.decode())
    except OSError as error:
        raise PipelineDefinitionError("file", str(path), error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise PipelineDefinitionError("file", str(path), f"it is no TOML: {error}") from None
    try:
        return _definition(path.resolve(), data)
    except PipelineDefinitionError as error:
        raise PipelineDefinitionError(error.field, error.value, error.fix, path=path) from None


def _definition(path: Path, data: dict[str, Any]) -> Definition:
    _known("", data, _TOP)
    head = _table("pipeline", data.get("pipeline"))
    _known("pipeline", head, _PIPELINE)
    about: dict[str, Any] = {"name": _text("pipeline.name", head.get("name"))}
    about |= {name: _text(f"pipeline.{name}", head[name]) for name in _TEXTS if name in head}
    about["parameters"] = _table("pipeline.parameters", head.get("parameters", {}))
    try:
        PipelineContext(**about)
    except PipelineDefinitionError as error:
        raise PipelineDefinitionError(f"pipeline.{error.field}", error.value, error.fix) from None
    inputs = {
        name: path.parent / _text(f"inputs.{name}", value)
        for name, value in _table("inputs", data.get("inputs", {})).items()
    }
    stages = data.get("stage")
    if not isinstance(stages, list) or not stages:
        raise PipelineDefinitionError("stage", stages, "give at least one [[stage]]")
    return Definition(
        path=path,
        about=about,
        store=path.parent / _text("pipeline.store", head.get("store", DEFAULT_STORE)),
        inputs=inputs,
        stages=tuple(_entry(f"stage[{index}]", each) for index, each in enumerate(stages)),
    )


def _entry(where: str, value: object) -> StageEntry:
    table = _table(where, value)
    _known(where, table, _STAGE)
    wires = _table(f"{where}.inputs", table.get("inputs", {}))
    return StageEntry(
        use=_text(f"{where}.use", table.get("use")),
        id=_text(f"{where}.id", table["id"]) if "id" in table else "",
        inputs={
            name: NOTHING if source == NOTHING else _text(f"{where}.inputs.{name}", source)
            for name, source in wires.items()
        },
        parameters=_table(f"{where}.parameters", table.get("parameters", {})),
    )


def _known(where: str, table: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in table:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            fix = f"did you mean {close[0]}?" if close else f"fields are {', '.join(names)}"
            raise PipelineDefinitionError(f"{where}.{name}" if where else name, table[name], fix)


def _table(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PipelineDefinitionError(where, value, "give a table")
    return value


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise PipelineDefinitionError(where, value, "give text")
    return value
