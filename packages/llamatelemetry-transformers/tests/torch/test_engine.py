"""The engine over models of transformers: the contract, and the pages, which are true ones."""

from __future__ import annotations

import pytest

from llamatelemetry import InferenceEngine
from llamatelemetry.testing.engine_contract import EngineContract
from llamatelemetry.transformers import TransformersBackend


class TestBatched(EngineContract):
    @pytest.fixture(autouse=True)
    def _model(self, tiny):
        self.tiny = tiny

    def make_engine(self) -> InferenceEngine:
        return InferenceEngine(TransformersBackend(*self.tiny, slots=8, page_size=16, batching=True))

    def test_pages_on_spans_are_the_true_ones(self) -> None:
        """What a request held is what its prompt and answer take in whole pages, and no estimate."""
        with self.running() as (engine, telling):
            results = [engine.generate(self.ask(number, max_tokens=20)) for number in range(3)]
            spans = telling.requests()
        for result in results:
            span = spans[result.request_id].attributes
            assert span["llamatelemetry.kv.estimated"] is False
            assert span["llamatelemetry.kv.page_size"] == 16
            # The last token is told and not stored.
            stored = (result.input_tokens or 0) + (result.output_tokens or 0) - 1
            assert span["llamatelemetry.kv.pages"] == -(-stored // 16)
            assert span["gen_ai.provider.name"] == "transformers"


class TestOneByOne(EngineContract):
    caches = False

    @pytest.fixture(autouse=True)
    def _model(self, tiny):
        self.tiny = tiny

    def make_engine(self) -> InferenceEngine:
        return InferenceEngine(TransformersBackend(*self.tiny, batching=False))


class TestSmolLM(EngineContract):
    callers_requests = 16

    @pytest.fixture(autouse=True)
    def _model(self, smollm):
        self.smollm = smollm

    def make_engine(self) -> InferenceEngine:
        model, tokenizer = self.smollm
        return InferenceEngine(
            "transformers", model_or_id=model, tokenizer=tokenizer, slots=8, context_length=512, page_size=16
        )
