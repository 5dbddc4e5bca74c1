"""llamatelemetry: an OpenTelemetry SDK and inference engine for local LLMs.

Importing this package imports nothing else: every public name is loaded on first use. The path
line below lets separately installed plugins add their sub-packages to this namespace.
"""

import pkgutil
from typing import TYPE_CHECKING

__path__ = pkgutil.extend_path(__path__, __name__)

if TYPE_CHECKING:
    from llamatelemetry.backends.protocol import ModelInfo as ModelInfo
    from llamatelemetry.backends.request import InferenceRequest as InferenceRequest
    from llamatelemetry.backends.request import SamplingParams as SamplingParams
    from llamatelemetry.config import Settings as Settings
    from llamatelemetry.deployment.deploying import deploy as deploy
    from llamatelemetry.deployment.record import Deployment as Deployment
    from llamatelemetry.errors import LlamatelemetryError as LlamatelemetryError
    from llamatelemetry.gpu.section import gpu_section as gpu_section
    from llamatelemetry.inference.engine import InferenceEngine as InferenceEngine
    from llamatelemetry.inference.live import EngineStats as EngineStats
    from llamatelemetry.inference.policy import SchedulerConfig as SchedulerConfig
    from llamatelemetry.inference.result import InferenceResult as InferenceResult
    from llamatelemetry.inference.retry import RetryPolicy as RetryPolicy
    from llamatelemetry.inference.stream import AsyncInferenceStream as AsyncInferenceStream
    from llamatelemetry.inference.stream import InferenceStream as InferenceStream
    from llamatelemetry.pipeline.context import PipelineContext as PipelineContext
    from llamatelemetry.pipeline.runner import Pipeline as Pipeline
    from llamatelemetry.pipeline.stage import Stage as Stage
    from llamatelemetry.pipeline.tracer import PipelineTracer as PipelineTracer
    from llamatelemetry.sdk import flush as flush
    from llamatelemetry.sdk import init as init
    from llamatelemetry.sdk import instrument_llamacpp as instrument_llamacpp
    from llamatelemetry.sdk import instrument_transformers as instrument_transformers
    from llamatelemetry.sdk import shutdown as shutdown
else:
    _HOMES = {
        "AsyncInferenceStream": "inference.stream",
        "Deployment": "deployment.record",
        "EngineStats": "inference.live",
        "InferenceEngine": "inference.engine",
        "InferenceRequest": "backends.request",
        "InferenceResult": "inference.result",
        "InferenceStream": "inference.stream",
        "LlamatelemetryError": "errors",
        "ModelInfo": "backends.protocol",
        "Pipeline": "pipeline.runner",
        "PipelineContext": "pipeline.context",
        "PipelineTracer": "pipeline.tracer",
        "RetryPolicy": "inference.retry",
        "SamplingParams": "backends.request",
        "SchedulerConfig": "inference.policy",
        "Settings": "config",
        "Stage": "pipeline.stage",
        "deploy": "deployment.deploying",
        "flush": "sdk",
        "gpu_section": "gpu.section",
        "init": "sdk",
        "instrument_llamacpp": "sdk",
        "instrument_transformers": "sdk",
        "shutdown": "sdk",
    }

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
