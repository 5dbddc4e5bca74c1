"""Facts of one inference, flat and in OpenTelemetry's units: what every profile is mapped from.

Durations are seconds, counts are counts, text is text. A figure nobody measured is None and is
never emitted. ``otel.facts`` fills these from a record; the tables beside them name the attributes
and derive nothing, so whatever is emitted has a field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PhaseName = Literal["queue", "prefill", "decode"]
"""Parts of a request, in order: waiting for a slot, reading the prompt, writing the answer, if it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceFacts:
    """The facts of one inference; each field is the source of one or more attributes or metrics.

    Where a name alone does not say it:

    Attributes:
        stream: The caller asked to be given tokens as they come.
        choices: Answers asked for; None for the usual one.
        finish_reasons: Why each answer ended, in order; ``finish_reason`` is why the first did.
        time_to_first_chunk_s: Submission to first chunk; None unless streaming.
        error_type: Low-cardinality name of what went wrong; ``error_message`` is its text.
        queue_depth: Requests that were waiting when this one was submitted.
        preparation_s: Submission to joining the queue, the first part of ``queue_duration_s``.
        scheduling_delay_s: Admission to dispatch, the last part of ``queue_duration_s``.
        attempts: Times that it was sent to a backend.
        last_phase: The phase it ended in.
        kv_estimated: True where the pages are the engine's own books about a cache it cannot see.
        kv_cached_estimate: Prompt tokens that those books expected to be in the cache;
            ``cached_tokens`` is what the backend says.
        time_to_first_token_s: Submission to first token, streaming or not.
        prefill_duration_s: Compute time the backend reports, as is ``decode_duration_s``.
        duration_s: Submission to end; ``duration_ms`` is the same in milliseconds, for the legacy key.
        server_request_duration_s: Dispatch to end. This and the other ``server_`` durations are None
            unless we run the model.
        server_time_to_first_token_s: Dispatch to first token, of a request that succeeded.
        server_time_per_output_token_s: Per token after the first, of a request that succeeded.
        openinference_span_kind: OpenInference's own kind, which is not OpenTelemetry's.
        input_messages: Content, as is each field below it: None unless its capture was asked for,
            and redacted. This one, ``output_messages`` and ``tool_definitions`` are JSON in the
            GenAI message format.
        input_text: The prompt as OpenInference shows it.
        output_text: The answer as OpenInference shows it.
    """

    operation: str
    provider: str
    request_model: str
    server_address: str | None = None
    server_port: int | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop_sequences: tuple[str, ...] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    choices: int | None = None
    embedding_dimensions: int | None = None
    conversation_id: str | None = None
    output_type: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reasons: tuple[str, ...] | None = None
    finish_reason: str | None = None
    time_to_first_chunk_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    request_id: str | None = None
    tenant: str | None = None
    priority: int | None = None
    queue_duration_s: float | None = None
    queue_depth: int | None = None
    preparation_s: float | None = None
    scheduling_delay_s: float | None = None
    admission: str | None = None
    attempts: int | None = None
    last_phase: str | None = None
    slot_id: int | None = None
    kv_pages: int | None = None
    kv_page_size: int | None = None
    kv_estimated: bool | None = None
    kv_cached_estimate: int | None = None
    time_to_first_token_s: float | None = None
    time_per_output_token_s: float | None = None
    tokens_per_second: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    itl_max_s: float | None = None
    prefill_duration_s: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_duration_s: float | None = None
    consumer_wait_s: float | None = None
    duration_s: float | None = None
    duration_ms: float | None = None
    server_request_duration_s: float | None = None
    server_time_to_first_token_s: float | None = None
    server_time_per_output_token_s: float | None = None
    model_architecture: str | None = None
    model_quantization: str | None = None
    model_parameters: int | None = None
    model_sha256: str | None = None
    model_manifest: str | None = None
    model_run_id: str | None = None
    openinference_span_kind: str | None = "LLM"
    input_messages: str | None = None
    output_messages: str | None = None
    tool_definitions: str | None = None
    input_text: str | None = None
    output_text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFacts:
    """The facts of one phase span.

    Attributes:
        name: Which phase.
        prefill_duration_s: Compute time the backend reports, of a prefill.
        decode_duration_s: Compute time the backend reports, of a decode.
        consumer_wait_s: Time that the answer's reader held it back, of a decode.
        backend_wait_s: What is left of the phase: the backend's own queue and the network.
    """

    name: PhaseName
    prefill_duration_s: float | None = None
    decode_duration_s: float | None = None
    consumer_wait_s: float | None = None
    backend_wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """The facts of one try that failed before its first token.

    Attributes:
        number: Which try it was, from 1.
        error_type: Low-cardinality name of why.
    """

    number: int
    error_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStartFacts:
    """The facts of one start of a model server; the span's length is the cold start.

    Attributes:
        runtime: What was started: ``llama-server`` or ``xllamacpp``.
        runtime_version: Its version, as it reports it.
        model: Name of the model it loads.
        slots: Requests it runs at once.
        context_length: Tokens one slot holds.
        threads: CPU threads it computes with.
        pid: Its process.
        server_address: Host it listens on.
        server_port: Port it listens on.
        error_type: Low-cardinality name of why it did not become ready.
    """

    runtime: str
    runtime_version: str | None = None
    model: str | None = None
    slots: int | None = None
    context_length: int | None = None
    threads: int | None = None
    pid: int | None = None
    server_address: str | None = None
    server_port: int | None = None
    error_type: str | None = None
