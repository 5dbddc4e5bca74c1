"""One finished inference, flat and in OpenTelemetry's units: what every profile is mapped from.

Durations are seconds, counts are counts, text is text. A figure nobody measured is None and is
never emitted. ``otel.facts`` fills this from a record; the tables beside it name the attributes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceFacts:
    """The facts of one inference; each field is the source of one or more attributes."""

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
    slot_id: int | None = None
    time_to_first_token_s: float | None = None
    time_per_output_token_s: float | None = None
    tokens_per_second: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    itl_max_s: float | None = None
    prefill_duration_s: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_duration_s: float | None = None
    duration_ms: float | None = None
    model_architecture: str | None = None
    model_quantization: str | None = None
    model_parameters: int | None = None
    model_sha256: str | None = None
    span_kind: str | None = None
    input_text: str | None = None
    output_text: str | None = None
