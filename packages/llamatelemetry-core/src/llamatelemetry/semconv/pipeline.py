"""Names of what a pipeline does: the span of a run, those of its stages, their steps, and the metrics of both.

A stage's span carries what the stage cost as well; what GPUs did in it are the rows of a section
(:data:`llamatelemetry.semconv.gpu.GPU_SECTION`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.gen_ai import ERROR_TYPE
from llamatelemetry.semconv.metrics import Instrument
from llamatelemetry.semconv.profiles import mapping_of

STEP_EVENT: Final = "llamatelemetry.pipeline.step"
"""Name of the span event of a step. Not every step has one; a stage's first and last do."""

_STAGE_BUCKETS: Final = (
    0.1,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1800.0,
    3600.0,
    7200.0,
    14400.0,
)
_STEP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFacts:
    """What is known of a run: the fields of its context, and how many stages it came to. None is not known."""

    run_id: str
    name: str
    base_model: str | None = None
    adapter: str | None = None
    dataset: str | None = None
    quantization: str | None = None
    artifact: str | None = None
    git_commit: str | None = None
    parameters_json: str | None = None
    stages: int | None = None
    reused: int | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """What is known of a stage. None is not known.

    Attributes:
        run_id: The run.
        pipeline: Its pipeline's name.
        stage: What it does, for example ``quantize``.
        step_id: Its name in the pipeline, which tells two stages of one kind apart.
        version: Version of the stage's code.
        key: Digest of all that decides what it makes.
        reused: Nothing was run: what it would make was there.
        parameters_json: What it was told, as JSON.
        inputs: ``role=digest`` of what it was given, the digest being that of the content.
        outputs: ``name=digest`` of what it made.
        cpu_s: CPU time of this process.
        children_cpu_s: CPU time of child processes that ended in it.
        memory_peak_bytes: Most memory that this process held at any one time in it.
        children_memory_peak_bytes: Most memory of any one child process that ended in it.
        steps: How many steps it took.
        loss_first: Loss of the first step that had one.
        loss_last: Loss of the last.
        loss_min: Lowest loss.
        error_type: Why it failed.
    """

    run_id: str
    pipeline: str
    stage: str
    step_id: str | None = None
    version: str | None = None
    key: str | None = None
    reused: bool | None = None
    parameters_json: str | None = None
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    cpu_s: float | None = None
    children_cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    children_memory_peak_bytes: int | None = None
    steps: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    loss_min: float | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """One step of a stage: its number, how long it took, and the two figures that training has."""

    number: int
    duration_s: float | None = None
    loss: float | None = None
    learning_rate: float | None = None


RUN_ID: Final = Attribute(
    "llamatelemetry.pipeline.run.id",
    "string",
    "run_id",
    "The run; artifacts that it made name it too.",
    requirement="required",
    at_start=True,
)
PIPELINE_NAME: Final = Attribute(
    "llamatelemetry.pipeline.name",
    "string",
    "pipeline",
    "The pipeline's name.",
    requirement="required",
    at_start=True,
)
STAGE_NAME: Final = Attribute(
    "llamatelemetry.pipeline.stage.name",
    "string",
    "stage",
    "What the stage does, for example quantize; also the span's name.",
    requirement="required",
    at_start=True,
)

PIPELINE: Final = (
    RUN_ID,
    Attribute(PIPELINE_NAME.name, "string", "name", PIPELINE_NAME.brief, requirement="required", at_start=True),
    Attribute("llamatelemetry.pipeline.base_model", "string", "base_model", "The model it starts from.", at_start=True),
    Attribute(
        "llamatelemetry.pipeline.adapter", "string", "adapter", "The adapter it trains or merges.", at_start=True
    ),
    Attribute("llamatelemetry.pipeline.dataset", "string", "dataset", "What it learns from.", at_start=True),
    Attribute(
        "llamatelemetry.pipeline.quantization",
        "string",
        "quantization",
        "Quantization that it is to make, for example Q4_K_M.",
        at_start=True,
    ),
    Attribute("llamatelemetry.pipeline.artifact", "string", "artifact", "What it is to make.", at_start=True),
    Attribute("llamatelemetry.pipeline.git_commit", "string", "git_commit", "Commit of the code.", at_start=True),
    Attribute(
        "llamatelemetry.pipeline.parameters",
        "string",
        "parameters_json",
        "What the run was told, as JSON.",
        at_start=True,
    ),
    Attribute("llamatelemetry.pipeline.stages", "int", "stages", "Stages that it came to.", unit="{stage}"),
    Attribute(
        "llamatelemetry.pipeline.stages.reused",
        "int",
        "reused",
        "Stages that were not run, because what they make was there.",
        unit="{stage}",
    ),
    ERROR_TYPE,
)
"""On the span of a run, named ``pipeline`` and the pipeline's name."""

STAGE: Final = (
    RUN_ID,
    PIPELINE_NAME,
    STAGE_NAME,
    Attribute(
        "llamatelemetry.pipeline.stage.id",
        "string",
        "step_id",
        "Its name in the pipeline, which tells two stages of one kind apart.",
        at_start=True,
    ),
    Attribute("llamatelemetry.pipeline.stage.version", "string", "version", "Version of its code.", at_start=True),
    Attribute(
        "llamatelemetry.pipeline.stage.key",
        "string",
        "key",
        "SHA-256 of all that decides what it makes.",
        at_start=True,
    ),
    Attribute(
        "llamatelemetry.pipeline.stage.reused",
        "boolean",
        "reused",
        "It was not run: what it makes was there, made by the span that is linked.",
        at_start=True,
        only_true=True,
    ),
    Attribute(
        "llamatelemetry.pipeline.stage.parameters",
        "string",
        "parameters_json",
        "What it was told, as JSON.",
        at_start=True,
    ),
    Attribute(
        "llamatelemetry.pipeline.stage.inputs",
        "string[]",
        "inputs",
        "Each input as role=digest of its content.",
        at_start=True,
    ),
    Attribute(
        "llamatelemetry.pipeline.stage.outputs", "string[]", "outputs", "Each output as name=digest of its content."
    ),
    Attribute("llamatelemetry.pipeline.cpu.time", "double", "cpu_s", "CPU time of this process in it.", unit="s"),
    Attribute(
        "llamatelemetry.pipeline.children.cpu.time",
        "double",
        "children_cpu_s",
        "CPU time of child processes that ended in it.",
        unit="s",
    ),
    Attribute(
        "llamatelemetry.pipeline.memory.peak",
        "int",
        "memory_peak_bytes",
        "Most memory that this process held at any one time in it.",
        unit="By",
    ),
    Attribute(
        "llamatelemetry.pipeline.children.memory.peak",
        "int",
        "children_memory_peak_bytes",
        "Most memory of any one child process that ended in it, if that is the most of any so far.",
        unit="By",
    ),
    Attribute("llamatelemetry.pipeline.steps", "int", "steps", "Steps that it took.", unit="{step}"),
    # A loss may be any number, NaN included, so it has no unit to be held to.
    Attribute("llamatelemetry.pipeline.loss.first", "double", "loss_first", "Loss of the first step that had one."),
    Attribute("llamatelemetry.pipeline.loss.last", "double", "loss_last", "Loss of the last step that had one."),
    Attribute("llamatelemetry.pipeline.loss.min", "double", "loss_min", "Lowest loss of any step."),
    ERROR_TYPE,
)
"""On the span of a stage, beside what GPUs did in it."""

STEP: Final = (
    Attribute("llamatelemetry.pipeline.step.number", "int", "number", "Which step it was.", requirement="required"),
    Attribute(
        "llamatelemetry.pipeline.step.duration", "double", "duration_s", "From the step before to this one.", unit="s"
    ),
    Attribute("llamatelemetry.pipeline.step.loss", "double", "loss", "Its loss."),
    Attribute("llamatelemetry.pipeline.step.learning_rate", "double", "learning_rate", "Its learning rate."),
)
"""On :data:`STEP_EVENT`, beside figures under names of a user's own."""

_WHERE: Final = (PIPELINE_NAME, STAGE_NAME)

STAGE_DURATION: Final = Instrument(
    "llamatelemetry.pipeline.stage.duration",
    "histogram",
    "s",
    "Duration of a stage that was run.",
    attributes=(*_WHERE, ERROR_TYPE),
    buckets=_STAGE_BUCKETS,
)
STEP_DURATION: Final = Instrument(
    "llamatelemetry.pipeline.step.duration",
    "histogram",
    "s",
    "Time from one step of a stage to the next.",
    attributes=_WHERE,
    buckets=_STEP_BUCKETS,
)
STEP_LOSS: Final = Instrument(
    "llamatelemetry.pipeline.step.loss", "gauge", "1", "Loss of the latest step.", attributes=_WHERE
)
STEP_LEARNING_RATE: Final = Instrument(
    "llamatelemetry.pipeline.step.learning_rate", "gauge", "1", "Learning rate of the latest step.", attributes=_WHERE
)

PIPELINE_METRICS: Final = (STAGE_DURATION, STEP_DURATION, STEP_LOSS, STEP_LEARNING_RATE)
"""All instruments of pipelines."""

pipeline_attributes: Final = mapping_of(PIPELINE)
"""From :class:`PipelineFacts` to attributes."""

stage_attributes: Final = mapping_of(STAGE)
"""From :class:`StageFacts` to attributes."""

step_attributes: Final = mapping_of(STEP)
"""From :class:`StepFacts` to attributes."""


def pipeline_span_name(name: str) -> str:
    """Name of the span of a run: ``pipeline {name}``."""
    return f"pipeline {name}"
