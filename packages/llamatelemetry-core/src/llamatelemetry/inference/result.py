"""What the caller gets back: the answer and its figures, in friendly units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamatelemetry.backends.protocol import FinishReason
from llamatelemetry.inference import metrics
from llamatelemetry.inference.metering import HardwareUse
from llamatelemetry.inference.record import FinishedRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceResult:
    """One answer. A figure nobody measured is None, never 0.

    Attributes:
        text: The answer.
        finish_reason: Why it ended.
        input_tokens: Prompt tokens, cached ones included.
        output_tokens: Generated tokens.
        cached_tokens: Prompt tokens served from the backend's cache.
        queue_ms: Submission to dispatch.
        ttft_ms: Submission to first token.
        tpot_ms: Time per output token after the first.
        tps: Decoding speed, tokens per second.
        prefill_tps: Prompt tokens per second of the backend's own prefill time.
        duration_ms: Submission to end.
        reasoning: The reasoning, where the model gives it apart.
        tool_calls: Whole tool calls, OpenAI shape.
        trace_id: Trace the request is in, 32 hex digits.
        request_id: The request's name.
        raw: The backend's last message.
        kv_pages: KV-cache pages held.
        embeddings: One vector per text, of a request with ``input``.
    """

    text: str
    finish_reason: FinishReason
    request_id: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    tps: float | None = None
    prefill_tps: float | None = None
    duration_ms: float | None = None
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    trace_id: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kv_pages: int | None = None
    embeddings: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    _record: FinishedRecord | None = field(default=None, repr=False, compare=False)

    @property
    def itl_ms(self) -> tuple[float, ...]:
        """Gaps between consecutive tokens, in milliseconds, computed when asked for."""
        if self._record is None:
            return ()
        return tuple(gap * 1e3 for gap in metrics.inter_token_latencies(self._record))

    @property
    def energy_j(self) -> float | None:
        """GPU energy attributed to it, in joules; waits about one sampling period right after the request."""
        use = self._hardware()
        return None if use is None else use.energy_j

    @property
    def vram_peak_mb(self) -> float | None:
        """Highest GPU memory use while it ran, in MB of 10⁶ bytes; waits as ``energy_j`` does."""
        use = self._hardware()
        return None if use is None else _mb(use.memory_peak_bytes)

    @property
    def vram_delta_mb(self) -> float | None:
        """GPU memory after minus before, in MB; waits as ``energy_j`` does."""
        use = self._hardware()
        return None if use is None else _mb(use.memory_delta_bytes)

    def _hardware(self) -> HardwareUse | None:
        pending = None if self._record is None else self._record.hardware
        return None if pending is None else pending.wait()


def _mb(count: int | None) -> float | None:
    return None if count is None else count * 1e-6


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def result_from(record: FinishedRecord, *, trace_id: str | None, raw: Mapping[str, Any]) -> InferenceResult:
    """Makes the caller's result from a finished record."""
    return InferenceResult(
        text=record.text,
        finish_reason=record.finish_reason,
        request_id=record.opening.request.request_id,
        input_tokens=record.usage.input_tokens,
        output_tokens=metrics.output_tokens(record),
        cached_tokens=record.usage.cached_tokens,
        queue_ms=_ms(metrics.queue_time(record)),
        ttft_ms=_ms(metrics.time_to_first_token(record)),
        tpot_ms=_ms(metrics.time_per_output_token(record)),
        tps=metrics.tokens_per_second(record),
        prefill_tps=metrics.prefill_tokens_per_second(record),
        duration_ms=_ms(metrics.duration(record)),
        reasoning=record.reasoning,
        tool_calls=record.tool_calls,
        trace_id=trace_id,
        raw=raw,
        kv_pages=None if record.kv is None else record.kv.pages,
        embeddings=record.embeddings,
        _record=record,
    )
