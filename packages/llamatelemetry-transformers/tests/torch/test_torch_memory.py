"""GPU memory of torch's allocator: what a build without CUDA answers, and books that are made up."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from llamatelemetry import InferenceEngine, InferenceRequest
from llamatelemetry.plugins import load_plugins
from llamatelemetry.semconv.torch_memory import TorchMemoryFacts
from llamatelemetry.testing.engine_contract import EngineContract
from llamatelemetry.transformers import TransformersBackend
from llamatelemetry.transformers.torch_memory import TorchMemoryEnricher, torch_memory

BOOKS = {
    0: {
        "allocated_bytes.all.current": 100,
        "reserved_bytes.all.current": 4096,
        "allocated_bytes.all.peak": 300,
    },
    1: {"allocated_bytes.all.current": 7, "reserved_bytes.all.current": 1024, "allocated_bytes.all.peak": 9},
}
UUIDS = ("7e0a5700-0000-4000-8000-000000000001", "7e0a5700-0000-4000-8000-000000000000")
SECOND = (f"GPU-{UUIDS[1]}", f"MIG-{UUIDS[1]}")


@pytest.fixture
def fake_cuda(monkeypatch):
    """A fake of ``torch.cuda`` on a machine with two GPUs, because this one may have none."""

    def put(**parts):
        made = {
            "is_initialized": lambda: True,
            "device_count": lambda: 2,
            "memory_stats": lambda device: BOOKS[device],
            "get_device_properties": lambda device: SimpleNamespace(uuid=UUIDS[device]),
            **parts,
        }
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(**made)))

    return put


def test_a_torch_that_has_not_touched_a_gpu_tells_nothing():
    assert not torch.cuda.is_initialized()
    assert torch_memory() is None
    assert not torch.cuda.is_initialized(), "asking took hold of a GPU"


def test_what_a_build_without_cuda_raises_is_nothing_to_tell(monkeypatch):
    # Stands for a build that says it has begun; what it answers of a GPU that is not there is torch's own.
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert torch_memory(SECOND) is None


@pytest.mark.parametrize("error", [AssertionError, AttributeError, RuntimeError])
def test_whatever_cuda_fails_with_is_nothing_to_tell(fake_cuda, error):
    def fail(_device):
        raise error("no")

    fake_cuda(memory_stats=fail)
    assert torch_memory() is None


def test_figures_are_of_the_models_gpus_together(fake_cuda):
    fake_cuda()
    assert torch_memory() == TorchMemoryFacts(allocated_bytes=107, reserved_bytes=5120, peak_bytes=309)
    assert torch_memory(SECOND) == TorchMemoryFacts(allocated_bytes=7, reserved_bytes=1024, peak_bytes=9)
    assert torch_memory(()) is None, "a model on no GPU has none of it"
    assert torch_memory(("GPU-of another machine",)) is None


def test_the_plugin_brings_the_enricher():
    assert any(isinstance(each, TorchMemoryEnricher) for each in load_plugins().enrichers())


@pytest.mark.parametrize("gpus", [(), SECOND])
def test_a_span_has_the_figures_where_there_are_some(tiny, monkeypatch, gpus):
    class Told(EngineContract):
        def make_engine(self) -> InferenceEngine:
            return InferenceEngine(TransformersBackend(*tiny, batching=False))

    # The books are made up; who asks for them, when, and where they end up is not.
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: BOOKS[device])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(BOOKS))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUIDS[device]))
    with Told().running() as (engine, telling):
        object.__setattr__(engine.info, "gpus", gpus)
        engine.generate(InferenceRequest(prompt="Once", max_tokens=2, request_id="one"))
        told = telling.requests()["one"].attributes
    names = [name for name in told if name.startswith("llamatelemetry.torch.memory.")]
    assert len(names) == (3 if gpus else 0)
    if gpus:
        assert told["llamatelemetry.torch.memory.reserved"] == 1024


def test_what_another_backend_ran_says_nothing_of_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: BOOKS[device])

    class Told(EngineContract):
        def make_engine(self) -> InferenceEngine:
            return InferenceEngine("echo")

    with Told().running() as (engine, telling):
        engine.generate(InferenceRequest(prompt="Once", request_id="one"))
        assert not [name for name in telling.requests()["one"].attributes if "torch" in name]
