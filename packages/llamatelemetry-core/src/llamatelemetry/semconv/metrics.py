"""Every instrument we create: name, kind, unit, buckets, and the attributes it may carry.

Names and buckets of ``gen_ai.*`` are those of release 1.41, and of the unreleased main branch for
``gen_ai_next`` (docs/gen-ai/client-inference.md and gen-ai-token-metrics.md there). Attributes are
bounded in number: no request, tenant or conversation id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from functools import cache
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as names

from llamatelemetry.semconv import gen_ai
from llamatelemetry.semconv.attributes import Attribute, AttributeValue
from llamatelemetry.semconv.facts import InferenceFacts
from llamatelemetry.semconv.profiles import Profile, mapping_of

InstrumentKind = Literal["histogram", "counter", "observable_counter", "observable_up_down_counter", "observable_gauge"]

DURATION_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Seconds of a whole operation."""

FIRST_TOKEN_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
"""Seconds until something begins."""

PER_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Seconds per token."""

TOKEN_BUCKETS: Final = tuple(float(4**power) for power in range(14))
"""Tokens of one request."""

MODEL_ATTRIBUTES: Final = (
    gen_ai.PROVIDER_NAME,
    gen_ai.REQUEST_MODEL,
    gen_ai.SERVER_ADDRESS,
    gen_ai.SERVER_PORT,
)
"""What a figure of a whole model or server carries."""

REQUEST_ATTRIBUTES: Final = (gen_ai.OPERATION_NAME, *MODEL_ATTRIBUTES, gen_ai.RESPONSE_MODEL)
"""What a figure of one request carries."""

_OUTCOME_ATTRIBUTES: Final = (*REQUEST_ATTRIBUTES, gen_ai.ERROR_TYPE)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric instrument.

    Attributes:
        name: Its name.
        kind: How it is created.
        unit: UCUM unit.
        brief: Its description.
        attributes: The attributes its points may carry, and no others.
        buckets: Upper bounds of a histogram's buckets, ascending.
    """

    name: str
    kind: InstrumentKind
    unit: str
    brief: str
    _: KW_ONLY
    attributes: tuple[Attribute, ...] = ()
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFact:
    """Says that a field of the facts is recorded on an instrument, once per request.

    Attributes:
        instrument: Where it is recorded.
        field: The field of :class:`InferenceFacts`; nothing is recorded when it is None.
        fixed: Attributes that tell this row from others on the same instrument.
    """

    instrument: Instrument
    field: str
    fixed: tuple[tuple[Attribute, str], ...] = ()


class Measurement(NamedTuple):
    """One value to record."""

    name: str
    value: float
    attributes: dict[str, AttributeValue]


_TOKEN_USAGE: Final = Instrument(
    names.GEN_AI_CLIENT_TOKEN_USAGE,
    "histogram",
    "{token}",
    "Tokens of one request.",
    attributes=(*REQUEST_ATTRIBUTES, gen_ai.TOKEN_TYPE),
    buckets=TOKEN_BUCKETS,
)


def _client_duration(name: str) -> MeasuredFact:
    instrument = Instrument(
        name,
        "histogram",
        "s",
        "Submission to end of a request.",
        attributes=_OUTCOME_ATTRIBUTES,
        buckets=DURATION_BUCKETS,
    )
    return MeasuredFact(instrument=instrument, field="duration_s")


def _first_chunk(name: str) -> MeasuredFact:
    instrument = Instrument(
        name,
        "histogram",
        "s",
        "Submission to first chunk of a streamed answer.",
        attributes=REQUEST_ATTRIBUTES,
        buckets=DURATION_BUCKETS,
    )
    return MeasuredFact(instrument=instrument, field="time_to_first_chunk_s")


def _token_distribution(name: str, field: str, brief: str) -> MeasuredFact:
    instrument = Instrument(
        name,
        "histogram",
        "{token}",
        brief,
        attributes=_OUTCOME_ATTRIBUTES,
        buckets=TOKEN_BUCKETS,
    )
    return MeasuredFact(instrument=instrument, field=field)


def _token_counter(name: str, field: str, brief: str) -> MeasuredFact:
    instrument = Instrument(
        name,
        "counter",
        "{token}",
        brief,
        attributes=(*REQUEST_ATTRIBUTES, gen_ai.TOKEN_MODALITY),
    )
    return MeasuredFact(instrument=instrument, field=field, fixed=((gen_ai.TOKEN_MODALITY, "unknown"),))


GEN_AI: Final = (
    _client_duration(names.GEN_AI_CLIENT_OPERATION_DURATION),
    _first_chunk("gen_ai.client.operation.time_to_first_chunk"),
    MeasuredFact(instrument=_TOKEN_USAGE, field="input_tokens", fixed=((gen_ai.TOKEN_TYPE, "input"),)),
    MeasuredFact(instrument=_TOKEN_USAGE, field="output_tokens", fixed=((gen_ai.TOKEN_TYPE, "output"),)),
)
"""Client-side figures under the names of profile ``gen_ai``."""

GEN_AI_NEXT: Final = (
    _client_duration("gen_ai.client.inference.duration"),
    _first_chunk("gen_ai.client.inference.time_to_first_chunk"),
    _token_distribution(
        "gen_ai.client.inference.operation.input_tokens", "input_tokens", "Prompt tokens of one request."
    ),
    _token_distribution(
        "gen_ai.client.inference.operation.output_tokens", "output_tokens", "Generated tokens of one request."
    ),
    _token_counter("gen_ai.client.inference.usage.input_tokens", "input_tokens", "Prompt tokens used."),
    _token_counter("gen_ai.client.inference.usage.output_tokens", "output_tokens", "Generated tokens."),
    _token_counter(
        "gen_ai.client.inference.usage.cache_read.input_tokens",
        "cached_tokens",
        "Prompt tokens served from the backend's cache.",
    ),
    _token_counter(
        "gen_ai.client.inference.usage.reasoning.output_tokens",
        "reasoning_tokens",
        "Generated tokens that were reasoning.",
    ),
)
"""Client-side figures under the names of profile ``gen_ai_next``."""

ALWAYS: Final = (
    MeasuredFact(
        instrument=Instrument(
            names.GEN_AI_SERVER_REQUEST_DURATION,
            "histogram",
            "s",
            "Dispatch to end of a request, where we run the model.",
            attributes=_OUTCOME_ATTRIBUTES,
            buckets=DURATION_BUCKETS,
        ),
        field="server_request_duration_s",
    ),
    MeasuredFact(
        instrument=Instrument(
            names.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
            "histogram",
            "s",
            "Dispatch to first token of a successful request, where we run the model.",
            attributes=REQUEST_ATTRIBUTES,
            buckets=FIRST_TOKEN_BUCKETS,
        ),
        field="server_time_to_first_token_s",
    ),
    MeasuredFact(
        instrument=Instrument(
            names.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
            "histogram",
            "s",
            "Time per token after the first of a successful request, where we run the model.",
            attributes=REQUEST_ATTRIBUTES,
            buckets=PER_TOKEN_BUCKETS,
        ),
        field="server_time_per_output_token_s",
    ),
    MeasuredFact(
        instrument=Instrument(
            "llamatelemetry.queue.duration",
            "histogram",
            "s",
            "Submission to dispatch of a request.",
            attributes=REQUEST_ATTRIBUTES,
            buckets=FIRST_TOKEN_BUCKETS,
        ),
        field="queue_duration_s",
    ),
)
"""Figures with the same name in any profile."""

QUEUE_DEPTH: Final = Instrument(
    "llamatelemetry.queue.depth",
    "observable_up_down_counter",
    "{request}",
    "Requests waiting for a slot.",
    attributes=MODEL_ATTRIBUTES,
)
REQUESTS_ACTIVE: Final = Instrument(
    "llamatelemetry.requests.active",
    "observable_up_down_counter",
    "{request}",
    "Requests that the backend is running.",
    attributes=MODEL_ATTRIBUTES,
)
RECORDS_DROPPED: Final = Instrument(
    "llamatelemetry.records.dropped",
    "counter",
    "{record}",
    "Finished requests whose telemetry was given up, because more came than could be recorded.",
)
ENGINE: Final = (QUEUE_DEPTH, REQUESTS_ACTIVE, RECORDS_DROPPED)
"""Figures of the engine and of the telemetry itself."""


def measured_facts(profiles: Iterable[Profile]) -> tuple[MeasuredFact, ...]:
    """What is recorded once per request.

    Only ``gen_ai`` and ``gen_ai_next`` have names of their own; without either, metrics take
    ``gen_ai``'s, so that choosing older span attributes loses no figure.
    """
    chosen = set(profiles)
    rows: list[MeasuredFact] = []
    if "gen_ai" in chosen or "gen_ai_next" not in chosen:
        rows += GEN_AI
    if "gen_ai_next" in chosen:
        rows += GEN_AI_NEXT
    return (*rows, *ALWAYS)


def request_instruments(profiles: Iterable[Profile]) -> tuple[Instrument, ...]:
    """The instruments that :func:`measurements` names, each once."""
    return tuple(dict.fromkeys(row.instrument for row in measured_facts(profiles)))


def measurements(facts: InferenceFacts, profiles: tuple[Profile, ...]) -> list[Measurement]:
    """What to record for one request. Attributes are shared between measurements: do not change them.

    Args:
        facts: What is known of the request.
        profiles: Profiles to emit it in.
    """
    shared = request_metric_attributes(facts)
    outcome = shared
    if facts.error_type is not None:
        outcome = {**shared, gen_ai.ERROR_TYPE.name: facts.error_type}
    get, plans = _plans(profiles)
    found = []
    for value, plan in zip(get(facts), plans, strict=True):
        if value is None:
            continue
        attributes = outcome if plan.with_error else shared
        if plan.fixed:
            attributes = {**attributes, **plan.fixed}
        found.append(Measurement(plan.name, value, attributes))
    return found


request_metric_attributes: Final = mapping_of(REQUEST_ATTRIBUTES)
"""From :class:`InferenceFacts` to what every figure of a request carries: few names, few values."""


def model_metric_attributes(
    *, provider: str, model: str, server_address: str | None = None, server_port: int | None = None
) -> dict[str, AttributeValue]:
    """The attributes that every figure of a whole model or server carries."""
    values = (provider, model, server_address, server_port)
    return {row.name: value for row, value in zip(MODEL_ATTRIBUTES, values, strict=True) if value is not None}


class _Plan(NamedTuple):
    name: str
    fixed: dict[str, AttributeValue]
    with_error: bool


@cache
def _plans(profiles: tuple[Profile, ...]) -> tuple[attrgetter[tuple[float | None, ...]], tuple[_Plan, ...]]:
    rows = measured_facts(profiles)
    plans = tuple(
        _Plan(
            row.instrument.name,
            {attribute.name: value for attribute, value in row.fixed},
            gen_ai.ERROR_TYPE in row.instrument.attributes,
        )
        for row in rows
    )
    return attrgetter(*(row.field for row in rows)), plans
