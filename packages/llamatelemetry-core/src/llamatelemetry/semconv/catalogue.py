"""Everything we can emit, in one list: the reference page and the checker are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llamatelemetry.semconv import (
    deployment,
    engine_metrics,
    gpu,
    hw,
    metrics,
    model_load,
    own,
    pipeline,
    profiles,
    server_metrics,
    spans,
    torch_memory,
)
from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.metrics import Instrument
from llamatelemetry.semconv.profiles import Profile

ALL_PROFILES: tuple[Profile, ...] = tuple(profiles.PROFILES)
"""Every profile there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeEntry:
    """A row of the catalogue's spans, of the events and links on them and of the resource.

    Attributes:
        span: Which span, or event or link on one, carries it; or the resource.
        profile: The profile it belongs to; None where it is emitted with any.
        row: What the table says.
    """

    span: Literal[
        "inference",
        "model_origin",
        "attempt_failed",
        "phase",
        "section",
        "server_start",
        "pipeline",
        "stage",
        "step",
        "model_load",
        "deploy",
        "deploy_step",
        "resource",
    ]
    profile: Profile | None
    row: Attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentEntry:
    """A row of the catalogue's metrics.

    Attributes:
        profile: The profile whose name it is; None where it is emitted with any.
        row: What the table says.
        source: The llama.cpp sample that feeds it, if one does.
    """

    profile: Profile | None
    row: Instrument
    source: str | None = None


def catalogue() -> Iterator[AttributeEntry | InstrumentEntry]:
    """Yields every attribute and every instrument, with its profile, in the order of the tables."""
    for profile, rows in profiles.PROFILES.items():
        yield from (AttributeEntry(span="inference", profile=profile, row=row) for row in rows)
    always = (*profiles.ALWAYS, *gpu.GPU, *torch_memory.TORCH_MEMORY)
    yield from (AttributeEntry(span="inference", profile=None, row=row) for row in always)
    yield from (AttributeEntry(span="model_origin", profile=None, row=row) for row in own.MODEL_ORIGIN_LINK)
    yield from (AttributeEntry(span="attempt_failed", profile=None, row=row) for row in spans.ATTEMPT_FAILED)
    for profile, rows in profiles.PHASE_PROFILES.items():
        yield from (AttributeEntry(span="phase", profile=profile, row=row) for row in rows)
    yield from (AttributeEntry(span="phase", profile=None, row=row) for row in profiles.phase_rows(()))
    yield from (AttributeEntry(span="section", profile=None, row=row) for row in gpu.GPU_SECTION)
    yield from (AttributeEntry(span="server_start", profile=None, row=row) for row in spans.SERVER_START)
    yield from (AttributeEntry(span="pipeline", profile=None, row=row) for row in pipeline.PIPELINE)
    yield from (AttributeEntry(span="stage", profile=None, row=row) for row in (*pipeline.STAGE, *gpu.GPU_SECTION))
    yield from (AttributeEntry(span="step", profile=None, row=row) for row in pipeline.STEP)
    loading = (*model_load.MODEL_LOAD, *gpu.GPU_SECTION)
    yield from (AttributeEntry(span="model_load", profile=None, row=row) for row in loading)
    yield from (AttributeEntry(span="deploy", profile=None, row=row) for row in deployment.DEPLOY)
    yield from (AttributeEntry(span="deploy_step", profile=None, row=row) for row in deployment.DEPLOY_STEPS)
    yield from (AttributeEntry(span="resource", profile=None, row=row) for row in gpu.GPU_RESOURCE)
    yield from _instruments()


def instruments() -> dict[str, Instrument]:
    """Every instrument by its name."""
    return {entry.row.name: entry.row for entry in _instruments()}


def _instruments() -> Iterator[InstrumentEntry]:
    named: tuple[tuple[Profile | None, tuple[metrics.MeasuredFact, ...]], ...] = (
        ("gen_ai", metrics.GEN_AI),
        ("gen_ai_next", metrics.GEN_AI_NEXT),
        (None, metrics.ALWAYS),
    )
    for profile, measured in named:
        for row in dict.fromkeys(fact.instrument for fact in measured):
            yield InstrumentEntry(profile=profile, row=row)
    yield from (InstrumentEntry(profile=None, row=row) for row in engine_metrics.ENGINE)
    yield from (InstrumentEntry(profile=None, row=row) for row in hw.GPU_METRICS)
    yield from (InstrumentEntry(profile=None, row=row) for row in pipeline.PIPELINE_METRICS)
    for source, row in server_metrics.PROMETHEUS_METRICS.items():
        yield InstrumentEntry(profile=None, row=row, source=f"llamacpp:{source}")
    for row in (server_metrics.SLOTS_BUSY, server_metrics.SLOTS_LIMIT):
        yield InstrumentEntry(profile=None, row=row, source="/slots")
