"""Tests of the names of what torch's allocator holds."""

from __future__ import annotations

from dataclasses import fields

from llamatelemetry.semconv.torch_memory import TORCH_MEMORY, TorchMemoryFacts, torch_memory_attributes


def test_every_fact_has_a_row_of_our_own_and_every_row_a_fact() -> None:
    assert [row.field for row in TORCH_MEMORY] == [field.name for field in fields(TorchMemoryFacts)]
    assert all(row.name.startswith("llamatelemetry.torch.memory.") for row in TORCH_MEMORY)


def test_what_nobody_measured_is_left_out_and_nothing_allocated_is_zero() -> None:
    facts = TorchMemoryFacts(allocated_bytes=0, peak_bytes=300)
    assert torch_memory_attributes(facts) == {
        "llamatelemetry.torch.memory.allocated": 0,
        "llamatelemetry.torch.memory.peak": 300,
    }
