"""What is observed of the live engines, and what the telemetry says of itself.

Rows are keyed on the fields of ``inference.live.EngineStats``, as those of a request are on its facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llamatelemetry.semconv import own
from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.metrics import MODEL_ATTRIBUTES, Instrument, InstrumentKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStat:
    """Says that a field of an engine's stats is observed on an instrument.

    Attributes:
        instrument: Where it is observed.
        field: The field; nothing is observed while it is None.
        fixed: Attributes that tell this row from others on the same instrument.
        read: Attributes that are read from their own field of the stats.
        keyed_by: Where the field is a mapping, the attribute that its keys go on.
        shared: True for what all backends of an engine share; else each has its own.
    """

    instrument: Instrument
    field: str
    fixed: tuple[tuple[Attribute, str], ...] = ()
    read: tuple[Attribute, ...] = ()
    keyed_by: Attribute | None = None
    shared: bool = False


def _instrument(name: str, kind: InstrumentKind, unit: str, brief: str, *attributes: Attribute) -> Instrument:
    return Instrument(f"llamatelemetry.{name}", kind, unit, brief, attributes=(*MODEL_ATTRIBUTES, *attributes))


QUEUE_DEPTH: Final = _instrument(
    "queue.depth", "observable_up_down_counter", "{request}", "Requests waiting for a slot."
)
QUEUE_TOKENS: Final = _instrument(
    "queue.tokens", "observable_up_down_counter", "{token}", "Tokens, prompts' and answers' together, that wait."
)
REQUESTS_ACTIVE: Final = _instrument(
    "requests.active", "observable_up_down_counter", "{request}", "Requests that the backend is running."
)
REQUESTS_REJECTED: Final = _instrument(
    "requests.rejected", "observable_counter", "{request}", "Requests that were not let in.", own.REJECT_REASON
)
REQUESTS_RETRIED: Final = _instrument(
    "requests.retried",
    "observable_counter",
    "{attempt}",
    "Tries that failed before the first token and were made again.",
)
SLOTS_LIMIT: Final = _instrument(
    "slots.limit", "observable_up_down_counter", "{slot}", "Requests that can run at once."
)
KV_PAGES_USED: Final = _instrument(
    "kv.pages.used",
    "observable_up_down_counter",
    "{page}",
    "KV-cache pages that running requests hold.",
    own.KV_ESTIMATED,
)
KV_PAGES_SHARED: Final = _instrument(
    "kv.pages.shared",
    "observable_up_down_counter",
    "{page}",
    "KV-cache pages that two running requests or more hold.",
    own.KV_ESTIMATED,
)
KV_PAGES_LIMIT: Final = _instrument(
    "kv.pages.limit", "observable_up_down_counter", "{page}", "KV-cache pages there are.", own.KV_ESTIMATED
)
PREFIX_QUERIES: Final = _instrument(
    "prefix_cache.queries",
    "observable_counter",
    "{token}",
    "Prompt tokens that were looked for in the prefix cache.",
    own.PREFIX_SOURCE,
)
PREFIX_HITS: Final = _instrument(
    "prefix_cache.hits",
    "observable_counter",
    "{token}",
    "Prompt tokens that were found in the prefix cache.",
    own.PREFIX_SOURCE,
)
RECORDS_DROPPED: Final = Instrument(
    "llamatelemetry.records.dropped",
    "counter",
    "{record}",
    "Finished requests whose telemetry was given up, because more came than could be recorded.",
)

_ENGINE_SAYS: Final = ((own.PREFIX_SOURCE, "engine"),)
_BACKEND_SAYS: Final = ((own.PREFIX_SOURCE, "backend"),)

OBSERVED: Final = (
    ObservedStat(instrument=QUEUE_DEPTH, field="queue_depth", shared=True),
    ObservedStat(instrument=QUEUE_TOKENS, field="queued_tokens", shared=True),
    ObservedStat(instrument=REQUESTS_ACTIVE, field="requests_active"),
    ObservedStat(instrument=REQUESTS_REJECTED, field="rejected", keyed_by=own.REJECT_REASON, shared=True),
    ObservedStat(instrument=REQUESTS_RETRIED, field="retried", shared=True),
    ObservedStat(instrument=SLOTS_LIMIT, field="slots"),
    ObservedStat(instrument=KV_PAGES_USED, field="kv_pages_used", read=(own.KV_ESTIMATED,)),
    ObservedStat(instrument=KV_PAGES_SHARED, field="kv_pages_shared", read=(own.KV_ESTIMATED,)),
    ObservedStat(instrument=KV_PAGES_LIMIT, field="kv_pages_limit", read=(own.KV_ESTIMATED,)),
    ObservedStat(instrument=PREFIX_QUERIES, field="prefix_queries_tokens", fixed=_ENGINE_SAYS),
    ObservedStat(instrument=PREFIX_QUERIES, field="prefix_reported_queries_tokens", fixed=_BACKEND_SAYS),
    ObservedStat(instrument=PREFIX_HITS, field="prefix_hits_tokens", fixed=_ENGINE_SAYS),
    ObservedStat(instrument=PREFIX_HITS, field="prefix_reported_hits_tokens", fixed=_BACKEND_SAYS),
)
"""Everything that is observed of engines."""

ENGINE: Final = (*dict.fromkeys(row.instrument for row in OBSERVED), RECORDS_DROPPED)
"""The instruments of engines and of the telemetry itself."""
