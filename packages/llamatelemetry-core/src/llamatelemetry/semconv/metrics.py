"""The instruments that are recorded on once per request: name, kind, unit, buckets, and attributes.

Names and buckets of ``gen_ai.*`` are those of release 1.41, and of the unreleased main branch for
``gen_ai_next`` (docs/gen-ai/client-inference.md, client-embeddings.md and gen-ai-token-metrics.md
there). Attributes are bounded in number: no request, tenant or conversation id.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as names

from llamatelemetry.semconv import gen_ai, own
from llamatelemetry.semconv.attributes import Attribute, AttributeValue, Task

InstrumentKind = Literal[
    "histogram", "counter", "gauge", "observable_counter", "observable_up_down_counter", "observable_gauge"
]

DURATION_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Seconds of a whole operation."""

FIRST_TOKEN_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
"""Seconds until something begins."""

PER_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Seconds per token."""

HANDOVER_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Seconds that a program takes for itself."""

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
        field: The field of :class:`InferenceFacts`; nothing is recorded when it is None. Empty counts
            requests.
        fixed: Attributes that tell this row from others on the same instrument.
        task: The only task whose requests are recorded; None is either.
    """

    instrument: Instrument
    field: str
    fixed: tuple[tuple[Attribute, str], ...] = ()
    task: Task | None = None


_TOKEN_USAGE: Final = Instrument(
    names.GEN_AI_CLIENT_TOKEN_USAGE,
    "histogram",
    "{token}",
    "Tokens of one request.",
    attributes=(*REQUEST_ATTRIBUTES, gen_ai.TOKEN_TYPE),
    buckets=TOKEN_BUCKETS,
)


def _client_duration(name: str, task: Task | None = None) -> MeasuredFact:
    instrument = Instrument(
        name,
        "histogram",
        "s",
        "Submission to end of a request.",
        attributes=_OUTCOME_ATTRIBUTES,
        buckets=DURATION_BUCKETS,
    )
    return MeasuredFact(instrument=instrument, field="duration_s", task=task)


def _first_chunk(name: str) -> MeasuredFact:
    instrument = Instrument(
        name,
        "histogram",
        "s",
        "Submission to first chunk of a streamed answer.",
        attributes=REQUEST_ATTRIBUTES,
        buckets=DURATION_BUCKETS,
    )
    return MeasuredFact(instrument=instrument, field="time_to_first_chunk_s", task="generation")


def _token_distribution(name: str, field: str, brief: str, task: Task = "generation") -> MeasuredFact:
    instrument = Instrument(
        name,
        "histogram",
        "{token}",
        brief,
        attributes=_OUTCOME_ATTRIBUTES,
        buckets=TOKEN_BUCKETS,
    )
    return MeasuredFact(instrument=instrument, field=field, task=task)


def _token_counter(name: str, field: str, brief: str) -> MeasuredFact:
    instrument = Instrument(
        name,
        "counter",
        "{token}",
        brief,
        attributes=(*REQUEST_ATTRIBUTES, gen_ai.TOKEN_MODALITY),
    )
    fixed = ((gen_ai.TOKEN_MODALITY, "unknown"),)
    return MeasuredFact(instrument=instrument, field=field, fixed=fixed, task="generation")


GEN_AI: Final = (
    _client_duration(names.GEN_AI_CLIENT_OPERATION_DURATION),
    _first_chunk("gen_ai.client.operation.time_to_first_chunk"),
    MeasuredFact(instrument=_TOKEN_USAGE, field="input_tokens", fixed=((gen_ai.TOKEN_TYPE, "input"),)),
    MeasuredFact(
        instrument=_TOKEN_USAGE,
        field="output_tokens",
        fixed=((gen_ai.TOKEN_TYPE, "output"),),
        task="generation",
    ),
)
"""Client-side figures under the names of profile ``gen_ai``."""

GEN_AI_NEXT: Final = (
    _client_duration("gen_ai.client.inference.duration", "generation"),
    _client_duration("gen_ai.client.embeddings.duration", "embeddings"),
    _first_chunk("gen_ai.client.inference.time_to_first_chunk"),
    _token_distribution(
        "gen_ai.client.inference.operation.input_tokens", "input_tokens", "Prompt tokens of one request."
    ),
    _token_distribution(
        "gen_ai.client.inference.operation.output_tokens", "output_tokens", "Generated tokens of one request."
    ),
    _token_distribution(
        "gen_ai.client.embeddings.operation.input_tokens",
        "input_tokens",
        "Tokens of one request's texts.",
        "embeddings",
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
        task="generation",
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
        task="generation",
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
    MeasuredFact(
        instrument=Instrument(
            "llamatelemetry.scheduler.delay",
            "histogram",
            "s",
            "Admission to dispatch of a request: the part of the queue that is the engine's own.",
            attributes=REQUEST_ATTRIBUTES,
            buckets=HANDOVER_BUCKETS,
        ),
        field="scheduling_delay_s",
    ),
    MeasuredFact(
        instrument=Instrument(
            "llamatelemetry.consumer.wait",
            "histogram",
            "s",
            "Time that its reader held an answer back, of those whose reader did.",
            attributes=REQUEST_ATTRIBUTES,
            buckets=DURATION_BUCKETS,
        ),
        field="consumer_wait_s",
        task="generation",
    ),
    MeasuredFact(
        instrument=Instrument(
            "llamatelemetry.requests.finished",
            "counter",
            "{request}",
            "Requests that ended, by reason and phase; one cancelled in a later phase than queue gave up its slot.",
            attributes=(*REQUEST_ATTRIBUTES, own.FINISH_REASON, own.LAST_PHASE),
        ),
        field="",
    ),
)
"""Figures with the same name in any profile."""


def model_metric_attributes(
    *, provider: str, model: str, server_address: str | None = None, server_port: int | None = None
) -> dict[str, AttributeValue]:
    """The attributes that every figure of a whole model or server carries."""
    values = (provider, model, server_address, server_port)
    return {row.name: value for row, value in zip(MODEL_ATTRIBUTES, values, strict=True) if value is not None}
