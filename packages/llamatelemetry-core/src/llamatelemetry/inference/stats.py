"""From the scheduler's books to the engine's public snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from llamatelemetry.backends.protocol import KVState, ModelInfo
from llamatelemetry.inference.decisions import GroupStats, SchedulerStats
from llamatelemetry.inference.live import EngineStats


@dataclass(slots=True)
class Tally:
    """What became of the requests that were let in, and the tries that had to be made again."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0


def engine_stats(
    model: ModelInfo,
    backends: Sequence[ModelInfo],
    scheduled: SchedulerStats,
    tally: Tally,
    *,
    caches: Sequence[KVState | None],
    kv_estimated: bool,
) -> EngineStats:
    """The engine's figures.

    Args:
        model: The engine's model.
        backends: The model as each backend describes it, in the order of the scheduler's groups.
        scheduled: The scheduler's figures.
        tally: What became of requests.
        caches: What each backend says of its own KV cache, in the same order; None for nothing.
        kv_estimated: Whether the pages of the others are the engine's own books about a cache it cannot see.
    """
    groups = [
        _of_group(info, group, cache, kv_estimated=kv_estimated)
        for info, group, cache in zip(backends, scheduled.groups, caches, strict=True)
    ]
    return replace(
        _of_group(model, _total(scheduled.groups), None, kv_estimated=any(group.kv_estimated for group in groups)),
        queue_depth=scheduled.waiting,
        queued_tokens=scheduled.waiting_tokens,
        kv_pages_used=_sum(group.kv_pages_used for group in groups),
        kv_pages_limit=_sum(group.kv_pages_limit for group in groups),
        kv_pages_shared=_sum(group.kv_pages_shared for group in groups),
        rejected={str(reason): count for reason, count in scheduled.rejected.items()},
        backends=tuple(groups) if len(groups) > 1 else (),
        **asdict(tally),
    )


def _total(groups: Sequence[GroupStats]) -> GroupStats:
    return GroupStats(
        running=sum(group.running for group in groups),
        slots=sum(group.slots for group in groups),
        reported_prompt_tokens=sum(group.reported_prompt_tokens for group in groups),
        reported_cached_tokens=sum(group.reported_cached_tokens for group in groups),
        estimated_cached_tokens=sum(group.estimated_cached_tokens for group in groups),
        kv=None,
    )


def _of_group(model: ModelInfo, group: GroupStats, cache: KVState | None, *, kv_estimated: bool) -> EngineStats:
    stats = EngineStats(
        model=model,
        requests_active=group.running,
        slots=group.slots,
        kv_estimated=kv_estimated,
        prefix_queries_tokens=group.reported_prompt_tokens,
        prefix_hits_tokens=group.estimated_cached_tokens,
        prefix_reported_queries_tokens=group.reported_prompt_tokens,
        prefix_reported_hits_tokens=group.reported_cached_tokens,
    )
    if cache is not None:
        pages = (cache.used, cache.limit, cache.shared)
        return _with_pages(stats, *pages, estimated=False)
    kv = group.kv
    return stats if kv is None else _with_pages(stats, kv.used, kv.pages, kv.shared, estimated=kv_estimated)


def _with_pages(stats: EngineStats, used: int, limit: int, shared: int, *, estimated: bool) -> EngineStats:
    return replace(stats, kv_pages_used=used, kv_pages_limit=limit, kv_pages_shared=shared, kv_estimated=estimated)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
