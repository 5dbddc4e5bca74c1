"""Which traces are kept: the head samplers by name. The tail decision is in :mod:`.tail`."""

from __future__ import annotations

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from llamatelemetry.config import Settings


def head_sampler(settings: Settings) -> Sampler:
    """The sampler that decides when a span starts.

    ``keep_slow_and_errors`` records everything its parent did not exclude, and decides at the end.
    """
    share = 1.0 if settings.sampler_arg is None else settings.sampler_arg
    match settings.sampler:
        case "always_on":
            return ALWAYS_ON
        case "always_off":
            return ALWAYS_OFF
        case "ratio":
            return TraceIdRatioBased(share)
        case "parentbased_always_on" | "keep_slow_and_errors":
            return ParentBased(ALWAYS_ON)
        case "parentbased_always_off":
            return ParentBased(ALWAYS_OFF)
        case "parentbased_ratio":
            return ParentBased(TraceIdRatioBased(share))
