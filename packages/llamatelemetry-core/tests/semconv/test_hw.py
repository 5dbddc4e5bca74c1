from __future__ import annotations

import typing
from dataclasses import fields

import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.semconv._incubating.attributes import hw_attributes
from opentelemetry.semconv._incubating.metrics import hw_metrics

from llamatelemetry.gpu.device import GPUDevice
from llamatelemetry.gpu.snapshot import GPUSnapshot
from llamatelemetry.gpu.totals import EnergyTotals
from llamatelemetry.semconv.hw import (
    ENERGY_USES,
    FIXED,
    GPU_METRICS,
    HW_DRIVER_VERSION,
    OBSERVED,
    STATES,
    ObservedReading,
    State,
)

CONVENTIONS = [row for row in GPU_METRICS if row.name.startswith("hw.")]
"""Instruments that are OpenTelemetry's."""
EMPTY = GPUSnapshot(device=GPUDevice(index=0, uuid="GPU-1", name="a GPU"), monotonic_ns=0)


def figure_of(row: ObservedReading) -> object:
    value: object = EMPTY
    for name in row.field.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("row", OBSERVED, ids=lambda row: row.field)
def test_what_is_observed_is_a_figure_of_the_snapshot_that_is_none_until_it_is_read(row: ObservedReading) -> None:
    assert figure_of(row) is None or row.one_of is not None


@pytest.mark.parametrize("row", OBSERVED, ids=lambda row: row.field)
def test_a_row_says_where_each_attribute_of_its_instrument_comes_from(row: ObservedReading) -> None:
    given = {attribute for attribute, _ in (*FIXED, *row.fixed)} | {HW_DRIVER_VERSION}
    if row.one_of is not None:
        given.add(row.one_of[0])
    assert {attribute for attribute in row.instrument.attributes if not attribute.field} <= given


def test_rows_of_one_instrument_are_told_apart() -> None:
    told = [(row.instrument.name, row.fixed) for row in OBSERVED]
    assert len(set(told)) == len(told)


class Asked(NoOpMeter):
    """Notes how OpenTelemetry's own functions make its instruments."""

    def __init__(self) -> None:
        super().__init__("asked")
        self.made: list[tuple[str, str, str]] = []

    def create_counter(self, name: str, unit: str = "", description: str = "") -> typing.Any:
        self.made.append((name, "observable_counter", unit))

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> typing.Any:
        self.made.append((name, "observable_up_down_counter", unit))

    def create_observable_gauge(
        self, name: str, callbacks: typing.Any = None, unit: str = "", description: str = ""
    ) -> typing.Any:
        self.made.append((name, "observable_gauge", unit))


@pytest.mark.parametrize("row", CONVENTIONS, ids=lambda row: row.name)
def test_name_kind_and_unit_are_those_that_opentelemetry_itself_makes(row: typing.Any) -> None:
    meter = Asked()
    make = getattr(hw_metrics, f"create_{row.name.replace('.', '_')}")
    make(meter, []) if row.kind == "observable_gauge" else make(meter)
    assert meter.made == [(row.name, row.kind, row.unit)]


def test_attributes_are_the_conventions_own() -> None:
    known = {value for name, value in vars(hw_attributes).items() if name.startswith("HW_")}
    used = {attribute.name for row in CONVENTIONS for attribute in row.attributes}
    assert used <= known | {"error.type", "network.io.direction"}


def test_every_instrument_names_the_device() -> None:
    for row in GPU_METRICS:
        assert "hw.id" in {attribute.name for attribute in row.attributes if attribute.requirement == "required"}


def test_components_of_any_kind_say_that_this_one_is_a_gpu() -> None:
    told = {row.name for row in GPU_METRICS if "hw.type" in {attribute.name for attribute in row.attributes}}
    assert told >= {"hw.energy", "hw.power", "hw.errors", "hw.status"}
    assert "hw.temperature" not in told, "its type would be that of the sensor"


def test_states_are_the_conventions_and_all_that_a_snapshot_can_be_in() -> None:
    assert set(STATES) == set(typing.get_args(State))
    assert set(STATES) < {value.value for value in hw_attributes.HwStateValues}


def test_all_of_a_devices_energy_is_split() -> None:
    assert [field for field, _ in ENERGY_USES] == [field.name for field in fields(EnergyTotals)]


def test_only_the_status_is_told_of_a_device_that_is_lost() -> None:
    assert {row.instrument.name for row in OBSERVED if row.when_lost} == {"hw.status"}
