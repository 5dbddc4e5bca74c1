"""What is known of a stage before it begins, and with what came of it, as the facts of its span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Link

from llamatelemetry.pipeline.context import PipelineContext, parameters_text
from llamatelemetry.pipeline.resources import StageResources
from llamatelemetry.pipeline.step_log import StepLog
from llamatelemetry.semconv.pipeline import StageFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLabel:
    """What is known of a stage before it begins. None is not known.

    Attributes:
        name: What it does, for example ``quantize``.
        step_id: Its name in the pipeline.
        version: Version of its code.
        key: Digest of all that decides what it makes.
        reused: Nothing is run: what it would make is there.
        parameters: What it is told.
        inputs: ``role=digest`` of what it is given.
        links: Spans that it comes from.
        begun_ns: When it began, monotonic, if before its span is opened.
    """

    name: str
    step_id: str | None = None
    version: str | None = None
    key: str | None = None
    reused: bool = False
    parameters: Mapping[str, Any] | None = None
    inputs: tuple[str, ...] | None = None
    links: Sequence[Link] = field(default_factory=tuple)
    begun_ns: int | None = None


def stage_facts(
    label: StageLabel,
    *,
    run: PipelineContext,
    cost: StageResources | None,
    steps: StepLog,
    outputs: tuple[str, ...] | None,
    error_type: str | None,
) -> StageFacts:
    """The facts that the tables of names are keyed on; a stage that was not run has cost nothing worth telling."""
    spent = None if label.reused else cost
    return StageFacts(
        run_id=run.run_id,
        pipeline=run.name,
        stage=label.name,
        step_id=label.step_id,
        version=label.version,
        key=label.key,
        reused=label.reused,
        parameters_json=parameters_text(label.parameters) if label.parameters else None,
        inputs=label.inputs,
        outputs=outputs,
        cpu_s=None if spent is None else spent.cpu_s,
        children_cpu_s=None if spent is None else spent.children_cpu_s,
        memory_peak_bytes=None if spent is None else spent.memory_peak_bytes,
        children_memory_peak_bytes=None if spent is None else spent.children_memory_peak_bytes,
        steps=steps.count or None,
        loss_first=steps.loss_first,
        loss_last=steps.loss_last,
        loss_min=steps.loss_min,
        error_type=error_type,
    )
