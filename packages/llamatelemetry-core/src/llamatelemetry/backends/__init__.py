"""What a backend is given and what it owes: the contract every model runtime is adapted to."""

from llamatelemetry.backends.protocol import (
    Backend,
    BackendTimings,
    CancelToken,
    ModelInfo,
    Placement,
    StreamEnd,
    TokenDelta,
    Usage,
)
from llamatelemetry.backends.request import InferenceRequest, SamplingParams

__all__ = [
    "Backend",
    "BackendTimings",
    "CancelToken",
    "InferenceRequest",
    "ModelInfo",
    "Placement",
    "SamplingParams",
    "StreamEnd",
    "TokenDelta",
    "Usage",
]
