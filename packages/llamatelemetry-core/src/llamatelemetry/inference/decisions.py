"""What the scheduler is asked, and every answer it can give, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamatelemetry.inference.kv_cache import KVStats, Reservation
from llamatelemetry.inference.tokens import PackedTokens

RejectReason = Literal["queue_full_requests", "queue_full_tokens", "context_overflow", "deadline_passed", "closed"]
"""Why a request was not let in."""

AdmitReason = Literal["next", "aged", "prefix"]
"""Why this request and not another: it was next; its level had waited too long; a slot knows its prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A request, as far as its turn depends on it. Times are seconds on the caller's clock.

    Attributes:
        id: The caller's handle, unique among requests that wait or run.
        prompt_tokens: Tokens in the prompt, at least 1; an estimate where counting is not cheap.
        max_tokens: Most tokens to generate, at least 1.
        submitted: When the caller submitted it.
        tenant: Who pays for it.
        priority: Its level; smaller is more urgent.
        deadline: When it must have been admitted; None is never.
        tokens: The prompt's tokens, packed, or ids that tell its beginning from others as well; None if
            they are not known. Where these are not ``prompt_tokens`` many, figures made of them are estimates.
    """

    id: int
    prompt_tokens: int
    max_tokens: int
    submitted: float
    tenant: str | None = None
    priority: int = 0
    deadline: float | None = None
    tokens: PackedTokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The request waits.

    Attributes:
        ticket: The request.
        depth: Requests that waited before it came.
    """

    ticket: Ticket
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The request was not let in.

    Attributes:
        ticket: The request.
        reason: Why.
        depth: What there was too much of: requests that wait, tokens that wait, or prompt tokens.
        limit: The bound it hit; None for a deadline that had passed and for a closed scheduler.
        retry_after_s: Seconds until there should be room; None if that is not known, or never.
    """

    ticket: Ticket
    reason: RejectReason
    depth: int
    limit: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The request runs now.

    Attributes:
        ticket: The request.
        slot: Slot it runs on.
        reservation: KV pages it holds; None if pages are not counted.
        cached_estimate: Prompt tokens that the backend should find in its cache.
        waited_s: Seconds since it was submitted.
        reason: Why it and not another.
    """

    ticket: Ticket
    slot: int
    reservation: Reservation | None
    cached_estimate: int
    waited_s: float
    reason: AdmitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The request's deadline passed while it waited; nothing was computed for it.

    Attributes:
        ticket: The request.
        waited_s: Seconds since it was submitted.
    """

    ticket: Ticket
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The request is no longer wanted.

    Attributes:
        ticket: The request.
        was: Whether it waited and is gone, or runs and keeps its slot until it is reported finished.
    """

    ticket: Ticket
    was: Literal["waiting", "running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The request's slot and pages are free.

    Attributes:
        ticket: The request.
        slot: The slot it ran on.
        ran_s: Seconds since it was admitted.
        cancelled: Whether it was cancelled while it ran.
    """

    ticket: Ticket
    slot: int
    ran_s: float
    cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStats:
    """One group of slots at one moment, and its counts since the scheduler was made.

    Attributes:
        running: Requests that run.
        slots: Most that can.
        reported_prompt_tokens: Prompt tokens of the finished requests whose cached tokens the backend told.
        reported_cached_tokens: Those of them that it took from its cache.
        estimated_cached_tokens: Those of them that were estimated to be there, at admission.
        kv: The KV cache; None if pages are not counted.
    """

    running: int
    slots: int
    reported_prompt_tokens: int
    reported_cached_tokens: int
    estimated_cached_tokens: int
    kv: KVStats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStats:
    """The scheduler at one moment, and its counts since it was made.

    Attributes:
        waiting: Requests that wait.
        waiting_tokens: Tokens, prompts' and answers' together, that wait.
        running: Requests that run.
        slots: Most that can.
        accepted: Requests let in.
        rejected: Requests not let in, by reason.
        admitted: Requests admitted, by reason.
        expired: Requests whose deadline passed while they waited.
        cancelled_waiting: Requests cancelled while they waited.
        cancelled_running: Requests cancelled while they ran.
        finished: Requests that ran to their end, cancelled ones included.
        retry_after_s: Seconds between two completions of late while others wait; None before there were two.
        groups: Each group of slots.
    """

    waiting: int
    waiting_tokens: int
    running: int
    slots: int
    accepted: int
    rejected: dict[RejectReason, int]
    admitted: dict[AdmitReason, int]
    expired: int
    cancelled_waiting: int
    cancelled_running: int
    finished: int
    retry_after_s: float | None
    groups: tuple[GroupStats, ...]
