"""The record of one request: what happened to it, as timestamps and facts.

It is all that the result, the enrichers and the telemetry recorder are made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamatelemetry.backends.protocol import Alternative, BackendTimings, FinishReason, ModelInfo, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.metering import PendingUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is known of a request when it is submitted.

    Attributes:
        request: The request.
        model: The model it is for.
        streaming: True when the caller asked to be given tokens as they come.
        submitted_ns: When it was submitted, Unix time in nanoseconds.
        queue_depth: Requests waiting when it was submitted, itself excluded.
    """

    request: InferenceRequest
    model: ModelInfo
    streaming: bool
    submitted_ns: int
    queue_depth: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A try that failed before its first token and was followed by another, or was to be.

    Attributes:
        failed_ns: When it failed, Unix time in nanoseconds.
        error_type: Low-cardinality name of why.
    """

    failed_ns: int
    error_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KVHold:
    """What a request held of the KV cache.

    Attributes:
        pages: Pages it held, those shared with others included: at admission by the engine's books,
            or the most at any one time, where the backend counted them.
        page_size: Tokens in a page.
        estimated: True where these are the engine's own books about a cache it cannot see.
        cached_estimate: Prompt tokens that the engine's books expected to be in the cache; None without
            books. The backend's own figure is in the usage.
    """

    pages: int
    page_size: int
    estimated: bool
    cached_estimate: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRecord:
    """Everything known of a request that ended, well or not. Times are Unix nanoseconds.

    Attributes:
        opening: What was known at the start.
        dispatched_ns: When it left the queue for the try that counts, the last; None if it ended
            while it waited.
        token_ns: When each delta arrived, in order; the first is the first token.
        held_back_ns: By index of a delta, how long its reader held the answer back after it.
        finished_ns: When it ended.
        finish_reason: Why it ended.
        usage: The backend's token counts; unknown ones are None.
        timings: Compute times the backend reported.
        text: The answer so far.
        reasoning: The reasoning so far.
        response_id: The backend's id of the answer.
        response_model: The model that answered, as the backend names it.
        slot_id: The slot that ran it: as the backend says, or else as the engine chose.
        tool_calls: Whole tool calls, OpenAI shape.
        error: What went wrong, or None.
        embeddings: One vector per text of the request's ``input``.
        alternatives: The answers after the first, in order, where there are several.
        queued_ns: When it joined the queue, its prompt counted; None if it never did.
        admitted_ns: When the scheduler let it run, a moment before it was dispatched; None if unknown.
        admission: Why it and not another: ``next``, ``aged`` or ``prefix``; None if unknown.
        kv: What it held of the KV cache; None if pages are not counted.
        attempts: Tries that failed before the one that counts, in order.
        answered_by: The backend it was sent to, where the engine has several; else the opening's.
        hardware: What it did to the hardware, once that is known; None if nobody measures.
        queueless: True where whoever runs it has no queue: nothing was waited for, and no such time is told.
    """

    opening: Opening
    dispatched_ns: int | None
    token_ns: Sequence[int]
    held_back_ns: Mapping[int, int]
    finished_ns: int
    finish_reason: FinishReason
    usage: Usage
    timings: BackendTimings
    text: str
    reasoning: str
    response_id: str | None
    response_model: str | None
    slot_id: int | None
    tool_calls: tuple[Mapping[str, Any], ...]
    error: BaseException | None
    embeddings: tuple[tuple[float, ...], ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    queued_ns: int | None = None
    admitted_ns: int | None = None
    admission: str | None = None
    kv: KVHold | None = None
    attempts: tuple[Attempt, ...] = ()
    answered_by: ModelInfo | None = None
    hardware: PendingUse | None = None
    queueless: bool = False

    @property
    def model(self) -> ModelInfo:
        """The model that was asked: of the backend it was sent to, or else of the engine."""
        return self.answered_by or self.opening.model
