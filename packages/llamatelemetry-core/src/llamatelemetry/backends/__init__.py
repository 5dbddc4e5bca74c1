"""What a backend is given and what it owes: the contract every model runtime is adapted to."""

from llamatelemetry.backends.protocol import (
    Alternative,
    Backend,
    BackendTimings,
    CacheReporting,
    CancelToken,
    EndExplaining,
    HealthReporting,
    KVReport,
    KVState,
    ModelInfo,
    Placement,
    Restartable,
    StreamEnd,
    TokenDelta,
    Usage,
)
from llamatelemetry.backends.request import InferenceRequest, SamplingParams

__all__ = [
    "Alternative",
    "Backend",
    "BackendTimings",
    "CacheReporting",
    "CancelToken",
    "EndExplaining",
    "HealthReporting",
    "InferenceRequest",
    "KVReport",
    "KVState",
    "ModelInfo",
    "Placement",
    "Restartable",
    "SamplingParams",
    "StreamEnd",
    "TokenDelta",
    "Usage",
]
