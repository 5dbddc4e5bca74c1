"""Real answers of a real llama.cpp: counts, times and traces hold together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
import requests

from llamatelemetry import InferenceEngine, InferenceRequest, SamplingParams
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.testing.engine_contract import EngineContract
from llamatelemetry.testing.semconv import assert_valid_spans


def ask_for(number: int, max_tokens: int = 12) -> InferenceRequest:
    return InferenceRequest(
        messages=[{"role": "user", "content": f"Say the number {number} and one word about it."}],
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=0),
    )


class TestLlamaServer(EngineContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: LlamaServer) -> None:
        self.server = server

    def make_engine(self) -> InferenceEngine:
        return InferenceEngine("llamacpp", server_url=self.server.url)

    def questions(self, engine: InferenceEngine, numbers: Iterable[int]) -> Mapping[int, tuple[InferenceRequest, str]]:
        """A grammar with one sentence in it tells each answer from the others, whatever the model thinks."""
        sentences = {number: f"My number is {number}, and it is nobody else's." for number in numbers}
        return {
            number: (replace(self.ask(number, max_tokens=40), grammar=f'root ::= "{sentence}"'), sentence)
            for number, sentence in sentences.items()
        }

    def endless(self, prompt: str) -> InferenceRequest:
        """The grammar keeps the model from ending its answer before it can be left."""
        return replace(super().endless(prompt), grammar='root ::= ("again ")+')


def test_our_token_counts_equal_the_servers(server: LlamaServer) -> None:
    request = ask_for(7, max_tokens=9)
    with InferenceEngine("llamacpp", server_url=server.url) as engine:
        result = engine.generate(request)
    body = {"messages": list(request.messages or ()), "max_tokens": 9, "temperature": 0}
    usage = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["usage"]
    assert (result.input_tokens, result.output_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


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
