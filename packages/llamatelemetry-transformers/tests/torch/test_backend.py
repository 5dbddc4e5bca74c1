"""The backend's contract, on models that are batched and on one that is not."""

from __future__ import annotations

import pytest

from llamatelemetry.testing.contracts import BackendContract
from llamatelemetry.transformers import TransformersBackend


class TestBatched(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, tiny):
        self.tiny = tiny

    def make_backend(self) -> TransformersBackend:
        return TransformersBackend(*self.tiny, slots=4, page_size=16, batching=True)


class TestOneByOne(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, tiny):
        self.tiny = tiny

    def make_backend(self) -> TransformersBackend:
        return TransformersBackend(*self.tiny, batching=False)


class TestSmolLM(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, smollm):
        self.smollm = smollm

    def make_backend(self) -> TransformersBackend:
        return TransformersBackend(*self.smollm, slots=2, context_length=256)
