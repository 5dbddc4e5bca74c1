"""Figures of one request, as pure functions of its timestamps and counts.

Times go in as nanoseconds and come out as seconds. A figure that is not defined, because nothing
happened or nobody measured, is None and never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import sub
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.inference.record import FinishedRecord

_NS = 1e-9


def queue_time(record: FinishedRecord) -> float | None:
    """Seconds from submission to dispatch; None if it was never dispatched, or there was no queue."""
    if record.dispatched_ns is None or record.queueless:
        return None
    return (record.dispatched_ns - record.opening.submitted_ns) * _NS


def preparation_time(record: FinishedRecord) -> float | None:
    """Seconds from submission to joining the queue: what counting the prompt took; None if it never joined."""
    if record.queued_ns is None:
        return None
    return (record.queued_ns - record.opening.submitted_ns) * _NS


def scheduling_delay(record: FinishedRecord) -> float | None:
    """Seconds from admission to dispatch: what the engine itself took to hand the request to the backend."""
    if record.dispatched_ns is None or record.admitted_ns is None:
        return None
    return (record.dispatched_ns - record.admitted_ns) * _NS


def duration(record: FinishedRecord) -> float:
    """Seconds from submission to the end."""
    return (record.finished_ns - record.opening.submitted_ns) * _NS


def time_to_first_token(record: FinishedRecord) -> float | None:
    """Seconds from submission to the first token on any channel: what the caller waited (TTFT)."""
    if not record.token_ns:
        return None
    return (record.token_ns[0] - record.opening.submitted_ns) * _NS


def output_tokens(record: FinishedRecord) -> int | None:
    """Generated tokens: the backend's count, or else the deltas that arrived.

    A stream that broke has no final count; its deltas are then the best that is known.
    """
    if record.usage.output_tokens is not None:
        return record.usage.output_tokens
    return len(record.token_ns) or None


def time_per_output_token(record: FinishedRecord) -> float | None:
    """Seconds per token after the first (TPOT): (duration - TTFT) / (output tokens - 1).

    Undefined below two tokens. Time that the reader held the answer back is not the model's and is
    left out. Formula: ``gen_ai.server.time_per_output_token`` in OpenTelemetry's GenAI metrics.
    """
    tokens = output_tokens(record)
    if tokens is None or tokens < 2 or not record.token_ns:
        return None
    elapsed = record.finished_ns - record.token_ns[0] - sum(record.held_back_ns.values())
    return elapsed * _NS / (tokens - 1)


def tokens_per_second(record: FinishedRecord) -> float | None:
    """Decoding speed: tokens after the first over the time that the gaps between them add up to."""
    tokens = output_tokens(record)
    if tokens is None or tokens < 2 or len(record.token_ns) < 2:
        return None
    # Where nothing was held back, the gaps need not be looked at to be added up.
    elapsed = sum(_gaps_ns(record)) if record.held_back_ns else record.token_ns[-1] - record.token_ns[0]
    return (tokens - 1) / (elapsed * _NS) if elapsed > 0 else None


def inter_token_latencies(record: FinishedRecord) -> tuple[float, ...]:
    """Seconds between consecutive deltas (ITL), in order, less what the reader held back; empty below two."""
    return tuple(gap * _NS for gap in _gaps_ns(record))


def consumer_wait(record: FinishedRecord) -> float | None:
    """Seconds that the reader held the answer back by not reading; None if it never did."""
    return sum(record.held_back_ns.values()) * _NS if record.held_back_ns else None


def prefill_tokens_per_second(record: FinishedRecord) -> float | None:
    """Prompt tokens computed per second of the backend's own prefill time."""
    tokens, elapsed_ms = record.timings.prefill_tokens, record.timings.prefill_ms
    if not tokens or not elapsed_ms:
        return None
    return tokens / (elapsed_ms * 1e-3)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile of values in ascending order; None without values.

    Args:
        ordered: Values, ascending.
        share: Between 0 and 1; 0.99 is p99.
    """
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _gaps_ns(record: FinishedRecord) -> list[int]:
    gaps = list(map(sub, record.token_ns[1:], record.token_ns))
    for index, held_ns in record.held_back_ns.items():
        if index < len(gaps):
            gaps[index] = max(0, gaps[index] - held_ns)
    return gaps
