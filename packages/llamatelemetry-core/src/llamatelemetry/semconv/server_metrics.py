"""What a llama.cpp server tells of itself, as instruments.

Sources are the counters and gauges of its ``/metrics`` page (``server-context.cpp`` and
``server-task.cpp`` of llama.cpp, as of xllamacpp 2026.10) and its ``/slots`` list. Its two gauges of
speed are left out: they start again at each scrape, and follow from the counters. KV-cache gauges
are gone upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from llamatelemetry.semconv.metrics import MODEL_ATTRIBUTES, Instrument, InstrumentKind


def _instrument(name: str, kind: InstrumentKind, unit: str, brief: str) -> Instrument:
    return Instrument(f"llamatelemetry.server.{name}", kind, unit, brief, attributes=MODEL_ATTRIBUTES)


PROMETHEUS_METRICS: Final[Mapping[str, Instrument]] = MappingProxyType(
    {
        "prompt_tokens_total": _instrument(
            "prefill.tokens", "observable_counter", "{token}", "Prompt tokens computed, cached ones excluded."
        ),
        "prompt_tokens_cached_total": _instrument(
            "prefill.cached_tokens", "observable_counter", "{token}", "Prompt tokens served from the cache."
        ),
        "prompt_seconds_total": _instrument(
            "prefill.time", "observable_counter", "s", "Compute time spent on prompts."
        ),
        "tokens_predicted_total": _instrument("decode.tokens", "observable_counter", "{token}", "Tokens generated."),
        "tokens_predicted_seconds_total": _instrument(
            "decode.time", "observable_counter", "s", "Compute time spent generating."
        ),
        "n_decode_total": _instrument("decode.calls", "observable_counter", "{call}", "Calls of llama_decode()."),
        "n_busy_slots_per_decode": _instrument(
            "decode.busy_slots", "observable_gauge", "{slot}", "Mean of the slots busy in a decode."
        ),
        "n_tokens_max": _instrument(
            "sequence.max_tokens", "observable_gauge", "{token}", "Longest sequence seen, prompt and answer."
        ),
        "spec_decode_num_draft_tokens_total": _instrument(
            "speculative.drafted_tokens", "observable_counter", "{token}", "Tokens that a draft model proposed."
        ),
        "spec_decode_num_accepted_tokens_total": _instrument(
            "speculative.accepted_tokens", "observable_counter", "{token}", "Proposed tokens that were accepted."
        ),
        "requests_processing": _instrument(
            "requests.active", "observable_up_down_counter", "{request}", "Requests being computed."
        ),
        "requests_deferred": _instrument(
            "requests.deferred", "observable_up_down_counter", "{request}", "Requests the server put off."
        ),
    }
)
"""Instruments by the name, without ``llamacpp:``, of the sample on ``/metrics`` that feeds them."""

SLOTS_BUSY: Final = _instrument(
    "slots.busy", "observable_up_down_counter", "{slot}", "Slots that are working, from /slots."
)
SLOTS_LIMIT: Final = _instrument("slots.limit", "observable_up_down_counter", "{slot}", "Slots there are.")

SERVER: Final = (*PROMETHEUS_METRICS.values(), SLOTS_BUSY, SLOTS_LIMIT)
"""All of them."""
