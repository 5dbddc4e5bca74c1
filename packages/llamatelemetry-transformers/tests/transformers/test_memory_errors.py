"""Memory that ran out is told apart from everything else that fails."""

from __future__ import annotations

import pytest

from llamatelemetry.errors import OutOfMemoryError
from llamatelemetry.transformers.memory_errors import explained_out_of_memory, is_out_of_memory


@pytest.mark.parametrize(
    "told",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB",
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 5.00 GB)",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.",
        "Memory footprint 123 is more than available memory 100",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "std::bad_alloc",
        MemoryError(),
    ],
)
def test_every_allocator_is_understood(told):
    assert is_out_of_memory(told)
    if isinstance(told, str):
        assert is_out_of_memory(RuntimeError(told))


@pytest.mark.parametrize("told", ["index out of range in self", "CUDA error: device-side assert triggered", ""])
def test_other_failures_are_none(told):
    assert not is_out_of_memory(told)
    assert not is_out_of_memory(RuntimeError(told))


def test_what_is_explained_says_where_when_and_what_to_do():
    with (
        pytest.raises(OutOfMemoryError, match="cuda:1 ran out of memory while it ran: ask for less") as caught,
        explained_out_of_memory("cuda:1", "while it ran", "ask for less"),
    ):
        raise MemoryError
    assert caught.value.device == "cuda:1"
    assert isinstance(caught.value.__cause__, MemoryError)


def test_what_was_explained_further_in_stays_as_it_is():
    first = OutOfMemoryError("cuda:0", "while it was loaded", "take a smaller one")
    with pytest.raises(OutOfMemoryError) as caught, explained_out_of_memory("cpu", "later", "something else"):
        raise first
    assert caught.value is first


def test_other_errors_pass():
    with pytest.raises(KeyError), explained_out_of_memory("cpu", "while", "fix"):
        raise KeyError("x")
