"""Our own names, ``llamatelemetry.*``: what no convention has a word for. Emitted with any profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llamatelemetry.semconv.attributes import Attribute

_PREFILL_DURATION: Final = Attribute(
    "llamatelemetry.prefill.duration",
    "double",
    "prefill_duration_s",
    "Compute time on the prompt tokens that were not cached, as the backend reports it.",
    unit="s",
)
_DECODE_DURATION: Final = Attribute(
    "llamatelemetry.decode.duration",
    "double",
    "decode_duration_s",
    "Compute time spent generating, as the backend reports it.",
    unit="s",
    task="generation",
)
_CONSUMER_WAIT: Final = Attribute(
    "llamatelemetry.consumer.wait",
    "double",
    "consumer_wait_s",
    "Time that the reader of the stream held the answer back by not reading.",
    unit="s",
    task="generation",
)
QUEUE_DURATION: Final = Attribute(
    "llamatelemetry.queue.duration", "double", "queue_duration_s", "Submission to dispatch.", unit="s"
)
KV_ESTIMATED: Final = Attribute(
    "llamatelemetry.kv.estimated",
    "boolean",
    "kv_estimated",
    "The pages are the engine's own books about a cache that it cannot see.",
)
FINISH_REASON: Final = Attribute(
    "llamatelemetry.request.finish_reason",
    "string",
    "finish_reason",
    "Why it ended: stop, length, tool_calls, content_filter, cancelled or error.",
)
LAST_PHASE: Final = Attribute(
    "llamatelemetry.request.phase",
    "string",
    "last_phase",
    "Phase that it ended in: queue, prefill or decode.",
)
REJECT_REASON: Final = Attribute(
    "llamatelemetry.reject.reason",
    "string",
    "",
    "Why: queue_full_requests, queue_full_tokens, context_overflow, deadline_passed or closed.",
    requirement="required",
)
PREFIX_SOURCE: Final = Attribute(
    "llamatelemetry.prefix_cache.source",
    "string",
    "",
    "Who says so: engine, from its own books, or backend, from what it reported of its cache.",
    requirement="required",
)

MODEL_MANIFEST: Final = Attribute(
    "llamatelemetry.model.manifest",
    "string",
    "model_manifest",
    "Whether its manifest proves where the model file came from: verified, unverified, missing or tampered.",
)
MODEL_RUN_ID: Final = Attribute(
    "llamatelemetry.model.run.id", "string", "model_run_id", "The pipeline run that made the model file."
)

MODEL_ORIGIN_LINK: Final = (
    replace(MODEL_MANIFEST, requirement="required"),
    MODEL_RUN_ID,
)
"""On the link from an inference span to the span that made the model file."""

INFERENCE: Final = (
    Attribute(
        "llamatelemetry.request.id", "string", "request_id", "Unique name of the request.", requirement="required"
    ),
    Attribute("llamatelemetry.request.tenant", "string", "tenant", "Who the request is for."),
    Attribute("llamatelemetry.request.priority", "int", "priority", "Urgency; smaller is more urgent."),
    QUEUE_DURATION,
    Attribute(
        "llamatelemetry.queue.depth",
        "int",
        "queue_depth",
        "Requests that were waiting when this one was submitted.",
        unit="{request}",
    ),
    Attribute(
        "llamatelemetry.queue.preparation",
        "double",
        "preparation_s",
        "Submission to joining the queue: the part of it in which the prompt's tokens were counted.",
        unit="s",
    ),
    Attribute(
        "llamatelemetry.scheduler.delay",
        "double",
        "scheduling_delay_s",
        "Admission to dispatch: the part of the queue that is the engine's own.",
        unit="s",
    ),
    Attribute(
        "llamatelemetry.scheduler.reason",
        "string",
        "admission",
        "Why it was admitted and not another: next, aged or prefix.",
    ),
    Attribute(
        "llamatelemetry.request.attempts",
        "int",
        "attempts",
        "Times that it was sent to a backend; each that failed before the last is an event.",
        unit="{attempt}",
    ),
    Attribute("llamatelemetry.slot.id", "int", "slot_id", "The backend's slot that ran it."),
    Attribute("llamatelemetry.kv.pages", "int", "kv_pages", "KV-cache pages that it held.", unit="{page}"),
    Attribute("llamatelemetry.kv.page_size", "int", "kv_page_size", "Tokens in a page.", unit="{token}"),
    KV_ESTIMATED,
    Attribute(
        "llamatelemetry.kv.cached_tokens_estimate",
        "int",
        "kv_cached_estimate",
        "Prompt tokens that the engine expected to be cached; what was is in the usage.",
        unit="{token}",
    ),
    Attribute(
        "llamatelemetry.time_to_first_token",
        "double",
        "time_to_first_token_s",
        "Submission to first token, on any channel.",
        unit="s",
        task="generation",
    ),
    Attribute(
        "llamatelemetry.time_per_output_token",
        "double",
        "time_per_output_token_s",
        "Time per token after the first.",
        unit="s",
        task="generation",
    ),
    Attribute(
        "llamatelemetry.tokens_per_second",
        "double",
        "tokens_per_second",
        "Decoding speed.",
        unit="{token}/s",
        task="generation",
    ),
    Attribute(
        "llamatelemetry.inter_token_latency.p50",
        "double",
        "itl_p50_s",
        "Median gap between two tokens.",
        unit="s",
        task="generation",
    ),
    Attribute(
        "llamatelemetry.inter_token_latency.p99",
        "double",
        "itl_p99_s",
        "99th percentile of the gaps between two tokens.",
        unit="s",
        task="generation",
    ),
    Attribute(
        "llamatelemetry.inter_token_latency.max",
        "double",
        "itl_max_s",
        "Longest gap between two tokens.",
        unit="s",
        task="generation",
    ),
    _PREFILL_DURATION,
    Attribute(
        "llamatelemetry.prefill.tokens_per_second",
        "double",
        "prefill_tokens_per_second",
        "Prompt tokens computed per second of the backend's own prefill time.",
        unit="{token}/s",
    ),
    _DECODE_DURATION,
    _CONSUMER_WAIT,
    Attribute("llamatelemetry.model.architecture", "string", "model_architecture", "For example llama."),
    Attribute(
        "llamatelemetry.model.quantization",
        "string",
        "model_quantization",
        "Quantization of the weights, for example Q4_1.",
    ),
    Attribute("llamatelemetry.model.parameters", "int", "model_parameters", "Number of weights."),
    Attribute("llamatelemetry.model.sha256", "string", "model_sha256", "Digest of the model file."),
    MODEL_MANIFEST,
    MODEL_RUN_ID,
)
"""On the inference span."""

PHASE: Final = (
    _PREFILL_DURATION,
    _DECODE_DURATION,
    _CONSUMER_WAIT,
    Attribute(
        "llamatelemetry.backend.wait",
        "double",
        "backend_wait_s",
        "What is left of the phase: the backend's own queue and the network.",
        unit="s",
    ),
)
"""On phase spans."""
