"""From a checkpoint to quantized models that were measured: the stages of the road, put together.

::

    checkpoint ─► (merge_lora) ─► export_gguf ─┬─► quantize ─► validate ─► benchmark ─┐
       adapter ─┘                              ├─► quantize ─► validate ─► benchmark ─┼─► compare
                                               └──────────────► validate ─► benchmark ─┘
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import InvalidValueError, PluginError
from llamatelemetry.pipeline import Node, Pipeline, PipelineContext, PipelineRun, Stage
from llamatelemetry.pipeline.nodes import NOTHING
from llamatelemetry.pipeline.progress import Listener
from llamatelemetry.plugins import load_plugins
from llamatelemetry.quantization.compare_stage import CompareStage
from llamatelemetry.quantization.export_stage import ExportGGUFStage
from llamatelemetry.quantization.file_types import file_type
from llamatelemetry.quantization.stage import QuantizeStage
from llamatelemetry.quantization.validate_stage import ValidateStage
from llamatelemetry.quantization.variants import VariantTable, read_variant_table

__all__ = ["QuantizationPipeline", "QuantizationRun"]

MERGE: Final = "merge_lora"
BENCHMARK: Final = "benchmark"
"""Names of stages that are brought by whom they are brought."""
_OF_A_CHILD: Final = ("max_divergence", "max_perplexity_ratio")
"""Limits that say nothing of the parent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationRun:
    """What came of it.

    Attributes:
        run: The run: its record, and every artifact.
        models: Names of the models, the parent first, to their files.
        table: What they are beside each other.
    """

    run: PipelineRun
    models: Mapping[str, Path]
    table: VariantTable


class QuantizationPipeline:
    """Makes GGUF models of a checkpoint, one of each type, and measures them against the one they are made of.

    The stages are the registered ones, under ids of their own: ``merge_lora``, ``f16``, ``q4_k_m``,
    ``validate-q4_k_m``, ``benchmark-q4_k_m``, ``compare``. What was made once is taken again, as in every pipeline.
    To be compared with, the parent runs once for all of them, as far as its logits find room (``shared_bytes`` of
    ``validate``).

    Args:
        file_types: What to make, for example ``["Q4_K_M", "Q8_0"]``.
        parent: What they are made of: ``F16``, ``BF16`` or ``F32``.
        merge: Parameters of the stage ``merge_lora``, for a run with an adapter.
        validate: Parameters of the stage ``validate``; None leaves it out. Limits of what is lost hold for the
            quantized models, not for their parent.
        benchmark: Parameters of the stage ``benchmark``; None leaves it out.
        threads: CPU threads of each stage; all there are where None.

    Raises:
        InvalidValueError: An argument cannot be used.
    """

    def __init__(
        self,
        file_types: Sequence[str],
        *,
        parent: str = "F16",
        merge: Mapping[str, Any] | None = None,
        validate: Mapping[str, Any] | None = None,
        benchmark: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> None:
        if isinstance(file_types, str) or not file_types:
            raise InvalidValueError("file_types", file_types, "give a list of file types, for example ['Q4_K_M']")
        names = [file_type(each).name for each in (parent, *file_types)]
        if len(set(names)) != len(names):
            fix = f"name each once, and not {names[0]}, which is there anyway"
            raise InvalidValueError("file_types", list(file_types), fix)
        self.variants: Mapping[str, str] = {each.lower(): each for each in names}
        """Names of the models, the parent first, to their file types."""
        self._parent = names[0].lower()
        self._merge = merge
        self._validate = validate
        self._benchmark = benchmark
        self._threads = threads
        self._export = ExportGGUFStage(names[0], threads=threads)

    def build(self, *, adapter: bool = False) -> Pipeline:
        """The pipeline; it takes ``inputs.checkpoint``, and with an adapter ``inputs.adapter``.

        A text to measure on can be given as ``inputs.text``, an importance matrix as ``inputs.imatrix``.

        Args:
            adapter: Whether it merges an adapter first.

        Raises:
            UnknownNameError: It has to merge, and no installed plugin brings ``merge_lora``; says what to install.
            PluginError: One does, and it cannot be used.
            InvalidValueError: Parameters of a stage cannot be used.
        """
        checkpoint = "inputs.checkpoint"
        nodes: list[Node] = []
        if adapter:
            merging, checkpoint = _merging(self._merge or {})
            nodes.append(merging)
        nodes.append(Node(stage=self._export, id=self._parent, inputs={"checkpoint": checkpoint}))
        made_of = {"model": f"{self._parent}.model"}
        nodes += [
            Node(stage=QuantizeStage(kind, threads=self._threads), id=name, inputs=made_of)
            for name, kind in self.variants.items()
            if name != self._parent
        ]
        if self._validate is not None:
            nodes += [self._validation(name, self._validate) for name in self.variants]
        if self._benchmark is not None:
            measured: Any = load_plugins().resolve_stage(BENCHMARK)
            told = dict(self._benchmark)
            if self._threads is not None:
                told["options"] = {"threads": self._threads, **told.get("options", {})}
            nodes += [
                Node(stage=measured(**told), id=f"benchmark-{name}", inputs={"model": f"{name}.model"})
                for name in self.variants
            ]
        return Pipeline([*nodes, self._comparison()])

    def run(
        self,
        source: str | os.PathLike[str],
        *,
        store: ArtifactStore | Path | str,
        adapter: str | os.PathLike[str] | None = None,
        text: str | os.PathLike[str] | None = None,
        imatrix: str | os.PathLike[str] | None = None,
        context: PipelineContext | str = "quantization",
        progress: Listener | None = None,
    ) -> QuantizationRun:
        """Runs it.

        Args:
            source: The checkpoint: a folder as transformers saves it.
            store: Keeps what is made.
            adapter: A LoRA adapter to merge into it first.
            text: What quality is measured on; a text that ships with this where None.
            imatrix: An importance matrix to quantize with.
            context: What the run is about, or only the pipeline's name.
            progress: Told how far it is.

        Raises:
            UnknownNameError: There is an adapter, and no installed plugin merges it; says what to install.
            StageFailedError: A stage failed, as when a model lost more than ``validate`` allows.
            PipelineError: Something else is wrong with it. Nothing was run.
            ArtifactError: What is given is not there or not what it was, or the store cannot be used.
        """
        given = {"checkpoint": source, "adapter": adapter, "imatrix": imatrix}
        if self._validate is not None:
            given["text"] = text
        done = self.build(adapter=adapter is not None).run(
            context,
            store=store,
            inputs={name: Path(path) for name, path in given.items() if path is not None},
            progress=progress,
        )
        return QuantizationRun(
            run=done,
            models={name: done.artifacts[f"{name}.model"].path for name in self.variants},
            table=read_variant_table(done.artifacts["compare.report"].path),
        )

    def _validation(self, name: str, told: Mapping[str, Any]) -> Node:
        wires = {"model": f"{name}.model", "parent": f"{self._parent}.model"}
        if name == self._parent:
            told = {each: value for each, value in told.items() if each not in _OF_A_CHILD}
            wires["parent"] = NOTHING
        return Node(stage=ValidateStage(**{"threads": self._threads, **told}), id=f"validate-{name}", inputs=wires)

    def _comparison(self) -> Node:
        wires = {}
        for name in self.variants:
            wires[f"model_{name}"] = f"{name}.model"
            wires[f"quality_{name}"] = NOTHING if self._validate is None else f"validate-{name}.report"
            wires[f"benchmark_{name}"] = NOTHING if self._benchmark is None else f"benchmark-{name}.report"
        return Node(stage=CompareStage([*self.variants]), id="compare", inputs=wires)


def _merging(told: Mapping[str, Any]) -> tuple[Node, str]:
    """The stage that merges, and where the checkpoint it makes is found; its ports go by their kinds."""
    made: Any = load_plugins().resolve_stage(MERGE)
    try:
        stage: Stage = made(**told)
    except TypeError as error:
        raise InvalidValueError("merge", dict(told), str(error)) from None
    wires = {port.name: f"inputs.{port.kind}" for port in stage.inputs if port.kind in {"checkpoint", "adapter"}}
    checkpoints = [port.name for port in stage.outputs if port.kind == "checkpoint"]
    if sorted(wires.values()) != ["inputs.adapter", "inputs.checkpoint"] or len(checkpoints) != 1:
        raise PluginError(f"stage {MERGE!r} cannot be used: it must make one checkpoint of a checkpoint and an adapter")
    return Node(stage=stage, id=MERGE, inputs=wires), f"{MERGE}.{checkpoints[0]}"
