"""Several layers see one inference: whichever they are, it has one span, and that is the outermost's."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import xllamacpp
from openai import OpenAI
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.genai.handler import TelemetryHandler

import llamatelemetry as lt
from llamatelemetry.backends.echo import EchoBackend
from llamatelemetry.llama.embedded import configure
from llamatelemetry.llama.instrument_xllamacpp import XllamacppInstrumentor
from llamatelemetry.llama.model_files import demo_model

PROMPT = lt.InferenceRequest(prompt="one two", max_tokens=2)
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def server_here() -> Iterator[xllamacpp.Server]:
    """A llama.cpp server in this process: it is called, and it serves HTTP."""
    params = xllamacpp.CommonParams()
    sizes = {"context_total": 512, "slots": 2, "threads": 1, "gpu_layers": None, "batch": None, "cache_ram_mib": None}
    kind = {"embeddings": False, "pooling": None, "kv_unified": None}
    configure(params, {"model": str(demo_model()), "alias": "smol", "port": 0, **sizes, **kind})
    yield xllamacpp.Server(params)
    gc.collect()


@pytest.fixture
def inferences() -> Iterator[Callable[[], list[str]]]:
    """Everything here is instrumented; gives the names of the inference spans so far."""
    exporter = InMemorySpanExporter()
    lt.init(exporters="none", gpu=False, span_processors=[SimpleSpanProcessor(exporter)])
    instrumentors = (XllamacppInstrumentor(), OpenAIInstrumentor())
    for instrumentor in instrumentors:
        instrumentor.instrument()

    def names() -> list[str]:
        assert lt.flush()
        finished = exporter.get_finished_spans()
        return [span.name for span in finished if "gen_ai.operation.name" in (span.attributes or {})]

    yield names
    for instrumentor in instrumentors:
        instrumentor.uninstrument()
    lt.shutdown()


class Calling(EchoBackend):
    """A backend that asks something else before it answers."""

    def __init__(self, ask: Callable[[], object]) -> None:
        super().__init__()
        self._ask = ask

    def stream(self, request: Any, placement: Any) -> Any:
        """As an echo, once that has answered."""
        self._ask()
        yield from super().stream(request, placement)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_the_server_in_this_process_has_the_span(
    server_here: xllamacpp.Server, inferences: Callable[[], list[str]], *, stream: bool
) -> None:
    with OpenAI(base_url=f"{server_here.listening_address}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model="smol", stream=stream, **ASKED)
        if stream:
            assert len(list(answer)) > 2
    assert inferences() == ["chat smol"]


def test_our_engine_has_the_span_of_what_it_asks_over_http(
    server_here: xllamacpp.Server, inferences: Callable[[], list[str]]
) -> None:
    with lt.InferenceEngine("llamacpp", server_url=server_here.listening_address) as engine:
        assert engine.generate(PROMPT).output_tokens == 2
    assert inferences() == ["text_completion smol"]


@pytest.mark.parametrize("stream", [False, True])
def test_our_engine_has_the_span_of_what_it_asks_a_library(
    server_here: xllamacpp.Server, inferences: Callable[[], list[str]], *, stream: bool
) -> None:
    asked: list[object] = []

    def ask() -> None:
        server_here.handle_chat_completions({**ASKED, "stream": stream}, asked.append)

    with lt.InferenceEngine(Calling(ask)) as engine:
        engine.generate(PROMPT)
    assert asked
    assert inferences() == ["text_completion echo"]


def test_an_inference_of_util_genai_has_the_span_of_what_is_called_inside_it(
    server_here: xllamacpp.Server, inferences: Callable[[], list[str]]
) -> None:
    with TelemetryHandler().inference("anything", request_model="outer"):
        server_here.handle_chat_completions(ASKED)
    server_here.handle_chat_completions(ASKED)
    assert inferences() == ["chat outer", "chat unknown"]


def test_what_a_callback_asks_while_an_answer_comes_is_another_inference(
    server_here: xllamacpp.Server, inferences: Callable[[], list[str]]
) -> None:
    def callback(message: Any) -> None:
        if not asked:
            asked.append(message)
            client.chat.completions.create(model="smol", **ASKED)

    asked: list[object] = []
    with OpenAI(base_url=f"{server_here.listening_address}/v1", api_key="none") as client:
        server_here.handle_completions({"prompt": "One", "max_tokens": 2, "stream": True}, callback)
    assert inferences() == ["chat smol", "text_completion unknown"]
