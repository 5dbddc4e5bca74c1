"""Real answers of a real model: counts, times and traces hold together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import requests
from opentelemetry import trace

from llamatelemetry import InferenceEngine, InferenceRequest, InferenceResult, SamplingParams
from llamatelemetry.errors import ContextOverflowError
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.testing.emitted import EmittedSpan
from llamatelemetry.testing.semconv import assert_valid_spans


def sentence(number: int) -> str:
    return f"My number is {number}, and it is nobody else's."


def ask_for(number: int, max_tokens: int = 12, grammar: str | None = None) -> InferenceRequest:
    return InferenceRequest(
        messages=[{"role": "user", "content": f"Say the number {number} and one word about it."}],
        max_tokens=max_tokens,
        grammar=grammar,
        sampling=SamplingParams(temperature=0),
        request_id=f"request-{number}",
    )


@pytest.fixture
def engine(server: LlamaServer, telemetry) -> Iterator[InferenceEngine]:
    telemetry.start()
    with InferenceEngine("llamacpp", server_url=server.url) as running:
        yield running


def ask_for_own(number: int) -> InferenceRequest:
    """A grammar with one sentence in it tells each answer from the others, whatever the model thinks."""
    return ask_for(number, max_tokens=40, grammar=f'root ::= "{sentence(number)}"')


def roots(spans: tuple[EmittedSpan, ...]) -> dict[str, EmittedSpan]:
    return {
        span.attributes["llamatelemetry.request.id"]: span for span in spans if span.name.startswith("chat SmolLM2")
    }


def test_our_token_counts_equal_the_servers(engine: InferenceEngine, server: LlamaServer) -> None:
    request = ask_for(7, max_tokens=9)
    result = engine.generate(request)
    body = {"messages": list(request.messages or ()), "max_tokens": 9, "temperature": 0}
    usage = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["usage"]
    assert (result.input_tokens, result.output_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


def test_a_repeated_prompt_is_served_from_the_cache_and_said_to_be(engine: InferenceEngine) -> None:
    first, again = (engine.generate(ask_for(4711)) for _ in range(2))
    assert again.input_tokens == first.input_tokens
    assert again.cached_tokens is not None
    assert again.input_tokens is not None
    assert 0 < again.cached_tokens < again.input_tokens


def test_times_contain_each_other(engine: InferenceEngine, telemetry) -> None:
    results = [engine.generate(ask_for(number)) for number in range(3)]
    spans = telemetry.spans()
    for result in results:
        span = roots(spans)[result.request_id]
        prefill_ms = span.attributes["llamatelemetry.prefill.duration"] * 1e3
        assert result.queue_ms is not None
        assert result.ttft_ms is not None
        assert result.duration_ms is not None
        assert result.queue_ms + prefill_ms <= result.ttft_ms <= result.duration_ms
        assert (span.end_ns - span.start_ns) / 1e6 == pytest.approx(result.duration_ms)
        assert len(result.itl_ms) == (result.output_tokens or 0) - 1
    assert_valid_spans(spans, ("gen_ai", "llm"))


def check_traces(telemetry, results: dict[int, InferenceResult], parents: dict[int, trace.SpanContext]) -> None:
    spans = telemetry.spans()
    found = roots(spans)
    assert len({result.trace_id for result in results.values()}) == len(results)
    for number, result in results.items():
        span = found[f"request-{number}"]
        assert span.trace_id == result.trace_id == trace.format_trace_id(parents[number].trace_id)
        assert span.parent_id == trace.format_span_id(parents[number].span_id)
        children = [child.name for child in spans if child.parent_id == span.span_id]
        assert sorted(children) == ["decode", "prefill", "queue"]
    assert_valid_spans(spans, ("gen_ai", "llm"))


def test_eight_streams_from_eight_threads_each_get_their_own_answer_and_trace(
    engine: InferenceEngine, telemetry
) -> None:
    results: dict[int, InferenceResult] = {}
    parents: dict[int, trace.SpanContext] = {}
    tracer = trace.get_tracer("test")

    def call(number: int) -> None:
        with tracer.start_as_current_span(f"caller {number}") as span:
            parents[number] = span.get_span_context()
            stream = engine.stream(ask_for_own(number))
            text = "".join(delta.text for delta in stream)
            results[number] = stream.result()
            assert text == results[number].text

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(results) == 8
    assert {number: result.text for number, result in results.items()} == {n: sentence(n) for n in results}
    check_traces(telemetry, results, parents)


def test_eight_streams_from_eight_tasks_each_get_their_own_answer_and_trace(engine: InferenceEngine, telemetry) -> None:
    results: dict[int, InferenceResult] = {}
    parents: dict[int, trace.SpanContext] = {}
    tracer = trace.get_tracer("test")

    async def call(number: int) -> None:
        with tracer.start_as_current_span(f"caller {number}") as span:
            parents[number] = span.get_span_context()
            stream = engine.astream(ask_for_own(number))
            text = "".join([delta.text async for delta in stream])
            results[number] = await stream.result()
            assert text == results[number].text

    async def main() -> None:
        await asyncio.gather(*(call(number) for number in range(10, 18)))

    asyncio.run(main())
    assert len(results) == 8
    assert {number: result.text for number, result in results.items()} == {n: sentence(n) for n in results}
    check_traces(telemetry, results, parents)


def test_a_prompt_too_long_is_one_typed_error_with_both_numbers(engine: InferenceEngine, telemetry) -> None:
    with pytest.raises(ContextOverflowError) as caught:
        engine.generate(InferenceRequest(prompt="word " * 2000, max_tokens=4, request_id="long"))
    assert caught.value.context_length == 512
    assert caught.value.prompt_tokens is not None
    assert caught.value.prompt_tokens > 2000
    [span] = [span for span in telemetry.spans() if span.attributes.get("llamatelemetry.request.id") == "long"]
    assert span.failed
    assert span.attributes["error.type"] == "ContextOverflowError"


def test_embeddings_go_through_the_engine_and_have_a_trace_of_their_own(telemetry) -> None:
    telemetry.start()
    texts = ["a cat sat on the mat", "a kitten lay on the rug", "interest rates rose by a quarter"]
    with InferenceEngine(
        "llamacpp", model=demo_model(), embeddings=True, slots=1, context_length=256, threads=1
    ) as engine:
        vectors = engine.embed(texts)
        assert engine.generate(ask_for(1, max_tokens=2)).output_tokens == 2
    assert [len(vector) for vector in vectors] == [576] * 3
    spans = telemetry.spans()
    [root] = [span for span in spans if span.name == "embeddings SmolLM2-135M-Instruct"]
    assert root.attributes["gen_ai.operation.name"] == "embeddings"
    assert root.attributes["gen_ai.usage.input_tokens"] > 10
    assert sorted(span.name for span in spans if span.parent_id == root.span_id) == ["prefill", "queue"]
    assert_valid_spans(spans, ("gen_ai", "llm"))
