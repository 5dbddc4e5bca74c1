from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader

from llamatelemetry.gpu.device import FastReading, GPUDevice, RareReading, SlowReading
from llamatelemetry.gpu.snapshot import GPUSnapshot
from llamatelemetry.gpu.totals import EnergyTotals
from llamatelemetry.otel import gpu_instruments
from llamatelemetry.otel.gpu_instruments import GPUInstruments, RisingTotals
from llamatelemetry.semconv.hw import GPU_METRICS
from llamatelemetry.testing.collector import OtlpSink, plain, running_rotel
from llamatelemetry.testing.semconv import assert_valid_metrics

GIB = 2**30
T4 = GPUDevice(index=1, uuid="GPU-t4", name="Tesla T4", memory_total_bytes=16 * GIB)
FULL = GPUSnapshot(
    device=T4,
    monotonic_ns=0,
    fast=FastReading(
        memory_used_bytes=4 * GIB,
        utilization=0.5,
        memory_controller_utilization=0.25,
        power_w=62,
        energy_mj=9_000_000,
    ),
    slow=SlowReading(
        temperature_c=54,
        sm_clock_mhz=1590,
        memory_clock_mhz=5000,
        throttle_reasons=("sw_power_cap",),
        ecc_corrected=3,
        ecc_uncorrected=0,
        xid_errors=1,
    ),
    rare=RareReading(
        pcie_transmitted_bytes_per_s=1_000_000,
        pcie_received_bytes_per_s=2_000_000,
        nvlink_transmitted_bytes=77,
        nvlink_received_bytes=99,
    ),
    energy_j=1250.5,
)
BARE = GPUSnapshot(device=GPUDevice(index=0, uuid="GPU-bare", name="a GPU"), monotonic_ns=0)
MIG = replace(FULL, device=replace(T4, uuid="MIG-1", parent_uuid="GPU-t4"))
COMMON = {"hw.id": "GPU-t4", "hw.name": "GPU 1", "hw.type": "gpu"}
SPECIFIC = {**COMMON, "hw.model": "Tesla T4", "hw.vendor": "NVIDIA", "hw.driver_version": "550.54.15"}
SPLIT = {"GPU-t4": EnergyTotals(requests_j=700, idle_j=500.5, unattributed_j=50)}

Point = tuple[dict[str, Any], float]


class GPUs:
    """What is sampled of them, to be changed by hand."""

    def __init__(self) -> None:
        self.snapshots: Sequence[GPUSnapshot] = (FULL,)
        self.split = SPLIT
        self.driver_version: str | None = "550.54.15"

    def observed_by(self, meter: Meter) -> GPUInstruments:
        return GPUInstruments(
            meter,
            snapshots=lambda: self.snapshots,
            driver_version=lambda: self.driver_version,
            energy=lambda: self.split,
        )


class Collected:
    """A meter provider of the SDK with a reader that is asked by hand."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.meter = self.provider.get_meter("t")

    def points(self) -> dict[str, list[Point]]:
        """Attributes and values by name."""
        data = self._reader.get_metrics_data()
        assert_valid_metrics(data)
        return {
            metric.name: [(dict(point.attributes), point.value) for point in metric.data.data_points]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self, name: str) -> list[float]:
        return [value for _, value in self.points().get(name, [])]


@pytest.fixture
def gpus() -> GPUs:
    return GPUs()


@pytest.fixture
def collected(gpus: GPUs) -> Iterator[Collected]:
    made = Collected()
    with gpus.observed_by(made.meter):
        yield made
    made.provider.shutdown()


def test_everything_a_snapshot_says_is_observed_in_opentelemetrys_units(collected: Collected) -> None:
    def of(attributes: dict[str, Any], *told: tuple[dict[str, Any], float]) -> list[Point]:
        return [({**attributes, **own}, value) for own, value in told]

    own = {"hw.id": "GPU-t4", "hw.name": "GPU 1"}
    sent, received = ({"network.io.direction": way} for way in ("transmit", "receive"))
    assert collected.points() == {
        "hw.gpu.utilization": of(SPECIFIC, ({"hw.gpu.task": "general"}, 0.5)),
        "hw.gpu.memory.usage": of(SPECIFIC, ({}, 4 * GIB)),
        "hw.gpu.memory.limit": of(SPECIFIC, ({}, 16 * GIB)),
        "hw.gpu.memory.utilization": of(SPECIFIC, ({}, 0.25)),
        "hw.gpu.io": of(SPECIFIC, (sent, 77), (received, 99)),
        "hw.energy": of(COMMON, ({}, 1250.5)),
        "hw.power": of(COMMON, ({}, 62.0)),
        "hw.temperature": of(own, ({"hw.sensor_location": "GPU_DIE"}, 54.0)),
        "hw.errors": of(
            COMMON,
            ({"error.type": "corrected"}, 3),
            ({"error.type": "uncorrected"}, 0),
            ({"error.type": "xid"}, 1),
        ),
        "hw.status": of(COMMON, ({"hw.state": "ok"}, 1), ({"hw.state": "degraded"}, 0), ({"hw.state": "failed"}, 0)),
        "llamatelemetry.gpu.clock": of(
            own,
            ({"llamatelemetry.gpu.clock.domain": "sm"}, 1.59e9),
            ({"llamatelemetry.gpu.clock.domain": "memory"}, 5e9),
        ),
        "llamatelemetry.gpu.memory.controller.utilization": of(own, ({}, 0.25)),
        "llamatelemetry.gpu.pcie.throughput": of(own, (sent, 1e6), (received, 2e6)),
        "llamatelemetry.gpu.energy": of(
            {"hw.id": "GPU-t4"},
            ({"llamatelemetry.gpu.energy.use": "requests"}, 700.0),
            ({"llamatelemetry.gpu.energy.use": "idle"}, 500.5),
            ({"llamatelemetry.gpu.energy.use": "unattributed"}, 50.0),
        ),
    }


def test_the_parts_of_a_devices_energy_are_its_energy(collected: Collected) -> None:
    points = collected.points()
    assert sum(value for _, value in points["llamatelemetry.gpu.energy"]) == points["hw.energy"][0][1]


def test_what_is_no_whole_amount_is_never_sent_as_one_nor_the_other_way_round(collected: Collected) -> None:
    whole = {"hw.gpu.memory.usage", "hw.gpu.memory.limit", "hw.gpu.io", "hw.errors", "hw.status"}
    for name, points in collected.points().items():
        assert {type(value) for _, value in points} == {int if name in whole else float}, name


def test_what_a_gpu_does_not_tell_is_not_observed_as_zero(gpus: GPUs, collected: Collected) -> None:
    gpus.snapshots, gpus.split = (BARE,), {}
    assert list(collected.points()) == ["hw.status"]


def test_nothing_is_observed_before_the_first_sample(gpus: GPUs, collected: Collected) -> None:
    gpus.snapshots, gpus.split = (), {}
    assert collected.points() == {}


def test_devices_are_told_apart_and_a_mig_instance_names_its_gpu(gpus: GPUs, collected: Collected) -> None:
    gpus.snapshots = (FULL, MIG)
    found = {attributes["hw.id"]: attributes for attributes, _ in collected.points()["hw.power"]}
    assert found == {
        "GPU-t4": COMMON,
        "MIG-1": {"hw.id": "MIG-1", "hw.name": "GPU 1 MIG", "hw.type": "gpu", "hw.parent": "GPU-t4"},
    }


def test_a_driver_version_that_is_not_known_is_left_out(gpus: GPUs, collected: Collected) -> None:
    gpus.driver_version = None
    assert all("hw.driver_version" not in attributes for attributes, _ in collected.points()["hw.gpu.utilization"])


@pytest.mark.parametrize(
    ("reasons", "state"),
    [
        (None, "ok"),
        ((), "ok"),
        (("gpu_idle", "sw_power_cap"), "ok"),
        (("sw_thermal_slowdown",), "degraded"),
        (("hw_slowdown", "hw_power_brake_slowdown"), "degraded"),
    ],
)
def test_a_gpu_is_degraded_when_heat_or_the_board_holds_it_down_and_not_at_its_power_limit(
    gpus: GPUs, collected: Collected, reasons: tuple[str, ...] | None, state: str
) -> None:
    gpus.snapshots = (replace(FULL, slow=SlowReading(throttle_reasons=reasons)),)
    states = {attributes["hw.state"]: value for attributes, value in collected.points()["hw.status"]}
    assert states == {"ok": 0, "degraded": 0, "failed": 0} | {state: 1}


def test_a_lost_gpu_has_failed_and_nothing_else_and_is_back_where_it_was(gpus: GPUs, collected: Collected) -> None:
    before = collected.points()
    gpus.snapshots = (replace(FULL, lost=True),)
    lost = collected.points()
    assert list(lost) == ["hw.status"]
    assert [(attributes["hw.state"], value) for attributes, value in lost["hw.status"]] == [
        ("ok", 0),
        ("degraded", 0),
        ("failed", 1),
    ]
    gpus.snapshots = (FULL,)
    assert collected.points() == before


def test_counters_go_on_when_a_gpu_comes_back_with_a_driver_that_counts_from_zero(
    gpus: GPUs, collected: Collected
) -> None:
    collected.points()
    gpus.snapshots = (replace(FULL, lost=True),)
    collected.points()
    anew = replace(
        FULL,
        energy_j=10.0,
        slow=replace(FULL.slow, ecc_corrected=0),
        rare=replace(FULL.rare, nvlink_transmitted_bytes=5, nvlink_received_bytes=5),
    )
    gpus.snapshots = (anew,)
    gpus.driver_version = "580.0"
    assert collected.values("hw.energy") == [1250.5]
    gpus.snapshots = (
        replace(
            anew,
            energy_j=14.0,
            slow=replace(anew.slow, ecc_corrected=2),
            rare=replace(anew.rare, nvlink_received_bytes=6),
        ),
    )
    points = collected.points()
    assert [value for _, value in points["hw.energy"]] == [1254.5]
    assert [value for _, value in points["hw.errors"]] == [5, 0, 1]
    assert [value for _, value in points["hw.gpu.io"]] == [77, 100]


@given(st.lists(st.integers(0, 1000)))
def test_a_total_never_falls_and_has_every_rise_once(counts: list[int]) -> None:
    totals = RisingTotals()
    found = [totals.total("k", count) for count in counts]
    assert found == sorted(found)
    rises = [max(0, later - earlier) for earlier, later in zip([0, *counts], counts, strict=False)]
    assert found == [sum(rises[: index + 1]) for index in range(len(rises))]


def test_the_sdk_that_keeps_the_first_callbacks_observes_whoever_came_last() -> None:
    collected, first, second = Collected(), GPUs(), GPUs()
    first.snapshots = (FULL,)
    second.snapshots = (BARE,)
    with first.observed_by(collected.meter):
        assert collected.values("hw.power") == [62.0]
    assert collected.points() == {}
    with second.observed_by(collected.meter):
        assert {attributes["hw.id"] for attributes, _ in collected.points()["hw.status"]} == {"GPU-bare"}
    collected.provider.shutdown()


def test_closing_one_that_was_replaced_does_not_end_the_other(gpus: GPUs, collected: Collected) -> None:
    old = gpus.observed_by(collected.meter)
    with gpus.observed_by(collected.meter):
        old.close()
        old.close()
        assert collected.values("hw.power") == [62.0]


def test_a_counter_does_not_fall_when_sampling_begins_anew_on_the_same_meter(gpus: GPUs, collected: Collected) -> None:
    assert collected.values("hw.energy") == [1250.5]
    again = GPUs()
    again.snapshots = (replace(FULL, energy_j=0.5),)
    with again.observed_by(collected.meter):
        assert collected.values("hw.energy") == [1250.5]


def test_a_source_that_breaks_loses_figures_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    collected = Collected()

    def broken() -> Sequence[GPUSnapshot]:
        raise OSError("gone")

    with GPUInstruments(collected.meter, snapshots=broken):
        assert collected.points() == {}
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
    collected.provider.shutdown()


def test_a_forked_child_does_not_wait_for_a_reader_of_its_parent(collected: Collected) -> None:
    with gpu_instruments._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # One that waits is ended.
            try:
                found = collected.values("hw.power")
            finally:
                os._exit(0 if found == [62.0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_hardware_metrics_arrive_at_a_collector_with_their_units(gpus: GPUs) -> None:
    with OtlpSink() as sink, running_rotel(pass_on_to=sink.endpoint) as rotel:
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{rotel.endpoint}/v1/metrics"), 1e9)
        provider = MeterProvider([reader], shutdown_on_exit=False)
        with gpus.observed_by(provider.get_meter("t")):
            provider.force_flush()
        assert sink.wait_for(lambda it: {metric.name for metric in it.metrics} >= {row.name for row in GPU_METRICS})
        provider.shutdown()
    arrived = {metric.name: metric for metric in sink.metrics}
    assert {name: metric.unit for name, metric in arrived.items()} == {row.name: row.unit for row in GPU_METRICS}
    for row in GPU_METRICS:
        kind = arrived[row.name].WhichOneof("data")
        assert kind == ("gauge" if row.kind == "observable_gauge" else "sum")
        if kind == "sum":
            assert arrived[row.name].sum.is_monotonic == (row.kind == "observable_counter")
    [energy] = arrived["hw.energy"].sum.data_points
    assert (energy.as_double, plain(energy.attributes)) == (1250.5, COMMON)
    [usage] = arrived["hw.gpu.memory.usage"].sum.data_points
    assert (usage.as_int, plain(usage.attributes)) == (4 * GIB, SPECIFIC)
