"""Tests of the names of what GPUs did on spans."""

from __future__ import annotations

from dataclasses import fields

from llamatelemetry.semconv.gpu import GPU_SECTION, GPUFacts, gpu_attributes, gpu_section_attributes

FULL = GPUFacts(
    ids=("GPU-1", "GPU-2"),
    names=("Tesla T4", "Tesla T4"),
    scope="process",
    memory_before_bytes=2**30,
    memory_delta_bytes=-4096,
    memory_peak_bytes=2**31,
    process_memory_bytes=2**29,
    utilization=1,
    energy_j=12.5,
    energy_idle_j=3.0,
    energy_method="counter",
    energy_uncertainty_j=0,
    temperature_max_c=61,
    throttle_reasons=("sw_power_cap",),
)


def test_every_fact_has_a_row_and_every_row_a_fact() -> None:
    rows = {row.field for row in GPU_SECTION}
    assert rows == {field.name for field in fields(GPUFacts)}
    assert len(rows) == len(GPU_SECTION)


def test_facts_are_emitted_in_their_units_and_types() -> None:
    attributes = gpu_attributes(FULL)
    assert attributes["llamatelemetry.gpu.ids"] == ("GPU-1", "GPU-2")
    assert attributes["llamatelemetry.gpu.memory.delta"] == -4096
    assert attributes["llamatelemetry.gpu.energy"] == 12.5
    for name in ("utilization", "energy.uncertainty", "temperature.max"):
        assert isinstance(attributes[f"llamatelemetry.gpu.{name}"], float), "a double is never sent as an int"


def test_only_a_section_has_idle_energy_of_its_own() -> None:
    assert "llamatelemetry.gpu.energy.idle" not in gpu_attributes(FULL)
    assert gpu_section_attributes(FULL) == {**gpu_attributes(FULL), "llamatelemetry.gpu.energy.idle": 3.0}


def test_what_nobody_measured_is_left_out_and_never_zero() -> None:
    assert gpu_attributes(GPUFacts(ids=("GPU-1",))) == {"llamatelemetry.gpu.ids": ("GPU-1",)}


def test_no_throttling_is_not_the_same_as_not_knowing() -> None:
    attributes = gpu_attributes(GPUFacts(ids=("GPU-1",), throttle_reasons=()))
    assert attributes["llamatelemetry.gpu.throttle_reasons"] == ()


def test_all_names_are_our_own() -> None:
    assert all(row.name.startswith("llamatelemetry.gpu.") for row in GPU_SECTION)
