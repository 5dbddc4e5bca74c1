"""The engine over models of transformers: the contract, and the pages, which are true ones."""

from __future__ import annotations

import pytest

import llamatelemetry
from llamatelemetry import InferenceEngine
from llamatelemetry.errors import StreamInterruptedError
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

    def test_a_batch_that_dies_is_started_anew_and_what_had_no_token_is_asked_again(self) -> None:
        """Those that streamed fail with what they had; one that had nothing yet is answered by the new batch."""
        with self.running() as (engine, telling):
            model = self.tiny[0]
            stream = engine.stream(self.endless("Once"))
            next(stream)

            def fail(*_args, **_kwargs):
                del model.forward
                raise RuntimeError("the device is gone")

            # Stands for a device that fails in the middle of a step, once.
            model.forward = fail
            with pytest.raises(StreamInterruptedError, match="the device is gone"):
                list(stream)
            assert engine.generate(self.ask(1, max_tokens=3)).output_tokens == 3
            spans = telling.requests()
        assert spans["request-1"].attributes["gen_ai.usage.output_tokens"] == 3
        assert len([span for span in spans.values() if span.failed]) == 1


def test_a_model_that_is_loaded_becomes_an_engine_in_one_call(tiny):
    with llamatelemetry.instrument_transformers(*tiny) as engine:
        assert (engine.info.provider, engine.info.slots) == ("transformers", 16)
        assert engine.generate(llamatelemetry.InferenceRequest(prompt="Once", max_tokens=3)).output_tokens == 3
        assert engine.stats().kv_pages_limit == engine.info.kv_tokens // engine.info.kv_page_size


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
