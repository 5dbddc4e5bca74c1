"""From a finished record to the flat facts that the semantic-convention tables are keyed on."""

from __future__ import annotations

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import LlamatelemetryError, RequestCancelledError
from llamatelemetry.inference import metrics
from llamatelemetry.inference.record import FinishedRecord
from llamatelemetry.otel.content import Content, TextRedactor
from llamatelemetry.semconv.facts import AttemptFacts, InferenceFacts, PhaseFacts, PhaseName


def facts_of(record: FinishedRecord, redactor: TextRedactor, content: Content | None = None) -> InferenceFacts:
    """Everything that is known of a finished request.

    Args:
        record: The finished record.
        redactor: Takes secrets out of the error's message and of what callers name themselves by.
        content: Prompt and answer, if they are to be exported.
    """
    opening = record.opening
    request, model, usage, timings, kv = opening.request, record.model, record.usage, record.timings, record.kv
    sampling = request.sampling
    gaps = sorted(metrics.inter_token_latencies(record))
    first_token = metrics.time_to_first_token(record)
    queued = metrics.queue_time(record)
    per_token = metrics.time_per_output_token(record)
    output_tokens = metrics.output_tokens(record)
    duration = metrics.duration(record)
    failure = failure_of(record)
    # Server-side durations are ours to tell only of a model we run, and the last two only of success.
    served = model.owned and queued is not None
    succeeded = served and record.error is None
    return InferenceFacts(
        operation=request.operation,
        provider=model.provider,
        request_model=request.model or model.model,
        server_address=model.server_address,
        server_port=model.server_port,
        stream=opening.streaming,
        max_tokens=request.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=request.seed,
        stop_sequences=tuple(map(redactor.text, request.stop)) or None,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        choices=None if request.n == 1 else request.n,
        embedding_dimensions=len(record.embeddings[0]) if record.embeddings else None,
        conversation_id=_clean(request.conversation_id, redactor),
        output_type=_output_type(request),
        response_id=record.response_id,
        response_model=record.response_model,
        finish_reasons=(record.finish_reason, *(other.finish_reason for other in record.alternatives)),
        finish_reason=record.finish_reason,
        time_to_first_chunk_s=first_token if opening.streaming else None,
        input_tokens=usage.input_tokens,
        output_tokens=output_tokens,
        total_tokens=None
        if usage.input_tokens is None or output_tokens is None
        else usage.input_tokens + output_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        error_type=None if failure is None else _error_type(failure),
        error_message=None if failure is None else redactor.text(str(failure)),
        request_id=request.request_id,
        tenant=_clean(request.tenant, redactor),
        priority=request.priority,
        queue_duration_s=queued,
        queue_depth=opening.queue_depth,
        preparation_s=metrics.preparation_time(record),
        scheduling_delay_s=metrics.scheduling_delay(record),
        admission=record.admission,
        attempts=len(record.attempts) + (record.dispatched_ns is not None),
        last_phase=_last_phase(record),
        slot_id=record.slot_id,
        kv_pages=kv.pages if kv else None,
        kv_page_size=kv.page_size if kv else None,
        kv_estimated=kv.estimated if kv else None,
        kv_cached_estimate=kv.cached_estimate if kv else None,
        time_to_first_token_s=first_token,
        time_per_output_token_s=per_token,
        tokens_per_second=metrics.tokens_per_second(record),
        itl_p50_s=metrics.percentile(gaps, 0.5),
        itl_p99_s=metrics.percentile(gaps, 0.99),
        itl_max_s=gaps[-1] if gaps else None,
        prefill_duration_s=_seconds(timings.prefill_ms),
        prefill_tokens_per_second=metrics.prefill_tokens_per_second(record),
        decode_duration_s=_seconds(timings.decode_ms),
        consumer_wait_s=metrics.consumer_wait(record),
        duration_s=duration,
        duration_ms=duration * 1e3,
        server_request_duration_s=duration - queued if served and queued is not None else None,
        server_time_to_first_token_s=first_token - queued
        if succeeded and first_token is not None and queued is not None
        else None,
        server_time_per_output_token_s=per_token if succeeded else None,
        model_architecture=model.architecture,
        model_quantization=model.quantization,
        model_parameters=model.parameters,
        model_sha256=model.sha256,
        model_manifest=model.lineage.standing if model.lineage else None,
        model_run_id=(model.lineage.run_id or None) if model.lineage else None,
        openinference_span_kind="EMBEDDING" if request.operation == "embeddings" else "LLM",
        input_messages=content.input_messages if content else None,
        output_messages=content.output_messages if content else None,
        tool_definitions=content.tool_definitions if content else None,
        input_text=content.input_text if content else None,
        output_text=content.output_text if content else None,
    )


def phases_of(record: FinishedRecord) -> tuple[tuple[PhaseFacts, int, int], ...]:
    """The phases a request went through, each with its start and end in Unix nanoseconds.

    They tile the request: the first starts at submission, each where the one before ends, and the
    last ends when the request does. A phase that was not reached is not there, nor a queue where there is none.
    """
    opening, dispatched, ended = record.opening, record.dispatched_ns, record.finished_ns
    if dispatched is None:
        return ((PhaseFacts(name="queue"), opening.submitted_ns, ended),)
    first_token = record.token_ns[0] if record.token_ns else None
    prefill_end = ended if first_token is None else first_token
    prefill_s, decode_s = _seconds(record.timings.prefill_ms), _seconds(record.timings.decode_ms)
    queue = () if record.queueless else ((PhaseFacts(name="queue"), opening.submitted_ns, dispatched),)
    prefill = (
        PhaseFacts(
            name="prefill",
            prefill_duration_s=prefill_s,
            backend_wait_s=_wait(dispatched, prefill_end, prefill_s),
        ),
        dispatched,
        prefill_end,
    )
    if first_token is None:
        return (*queue, prefill)
    held_s = metrics.consumer_wait(record)
    decode = (
        PhaseFacts(
            name="decode",
            decode_duration_s=decode_s,
            consumer_wait_s=held_s,
            backend_wait_s=_wait(first_token, ended, decode_s, held_s),
        ),
        first_token,
        ended,
    )
    return (*queue, prefill, decode)


def attempts_of(record: FinishedRecord) -> tuple[tuple[AttemptFacts, int], ...]:
    """The tries that failed before the one that counts, each with when it did, in Unix nanoseconds."""
    return tuple(
        (AttemptFacts(number=number, error_type=attempt.error_type), attempt.failed_ns)
        for number, attempt in enumerate(record.attempts, start=1)
    )


def failure_of(record: FinishedRecord) -> BaseException | None:
    """The record's error, unless the caller wanted it to end: a cancel is not a failure."""
    return None if isinstance(record.error, RequestCancelledError) else record.error


def _clean(text: str | None, redactor: TextRedactor) -> str | None:
    # A key or an address is what many applications tell their users apart by.
    return None if text is None else redactor.text(text)


def _last_phase(record: FinishedRecord) -> PhaseName:
    if record.dispatched_ns is None:
        return "queue"
    return "decode" if record.token_ns else "prefill"


def _error_type(error: BaseException) -> str:
    return error.error_type if isinstance(error, LlamatelemetryError) else type(error).__name__


def _output_type(request: InferenceRequest) -> str | None:
    kind = (request.response_format or {}).get("type")
    if kind is None:
        return None
    return "json" if str(kind).startswith("json") else "text"


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds * 1e-3


def _wait(start_ns: int, end_ns: int, computed_s: float | None, held_s: float | None = None) -> float | None:
    """What neither compute nor the reader explains of a phase; the backend's clock may run past ours a little."""
    return None if computed_s is None else max(0.0, (end_ns - start_ns) * 1e-9 - computed_s - (held_s or 0.0))
