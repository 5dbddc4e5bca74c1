"""Pipelines: tracing people's own training code, and running stages that turn artifacts into artifacts."""

from llamatelemetry.pipeline.context import PipelineContext, current_pipeline
from llamatelemetry.pipeline.nodes import Node
from llamatelemetry.pipeline.outcome import RunRecord, StageOutcome
from llamatelemetry.pipeline.progress import Progress
from llamatelemetry.pipeline.runner import Pipeline, PipelineRun
from llamatelemetry.pipeline.stage import Artifact, Lapsing, Port, Stage, StageContext
from llamatelemetry.pipeline.stage_trace import StageTrace, current_stage
from llamatelemetry.pipeline.tracer import PipelineTracer

__all__ = [
    "Artifact",
    "Lapsing",
    "Node",
    "Pipeline",
    "PipelineContext",
    "PipelineRun",
    "PipelineTracer",
    "Port",
    "Progress",
    "RunRecord",
    "Stage",
    "StageContext",
    "StageOutcome",
    "StageTrace",
    "current_pipeline",
    "current_stage",
]
