"""The monitor over stubs of NVML: what is read is what the test wrote."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from llamatelemetry.backends.protocol import ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.gpu.enricher import GPUSpanEnricher
from llamatelemetry.gpu.monitor import start_monitor
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.metering import current_meter
from llamatelemetry.inference.record import FinishedRecord
from llamatelemetry.testing.nvml_stub import A100_MIG, NvmlStub

PERIOD_S = 0.02


def run_request(seconds: float = 0.0, gpus: tuple[str, ...] | None = None) -> FinishedRecord:
    model = ModelInfo(model="m", provider="llamacpp", gpus=gpus)
    recorder = EventRecorder(InferenceRequest(prompt="x"), model, streaming=False, queue_depth=0, clock=SYSTEM_CLOCK)
    recorder.dispatched()
    hardware = current_meter().begin(recorder)
    time.sleep(seconds)
    recorder.token()
    return recorder.finish(StreamEnd(finish_reason="stop"), text="", hardware=hardware)


def test_a_request_on_the_stub_is_measured_while_the_monitor_runs_and_not_after(t4x2):
    t4x2.devices[0].power_w(60)
    monitor = start_monitor(interval_s=PERIOD_S, idle_power_w=10)
    try:
        use = run_request(0.2).hardware.wait(5)
        assert use.energy_j == pytest.approx(0.2 * 50, rel=0.6)
        assert [snapshot.device.name for snapshot in monitor.snapshots()] == ["Tesla T4", "Tesla T4"]
        assert set(monitor.energy_totals()) == {device.uuid for device in monitor.devices}
    finally:
        monitor.close()
    assert run_request().hardware is None
    assert not [thread for thread in threading.enumerate() if thread.name == "llamatelemetry-gpu"]


def test_of_a_stub_gpu_in_instances_a_request_is_measured_on_the_whole(a100_mig):
    monitor = start_monitor(interval_s=PERIOD_S)
    try:
        use = run_request(0.1).hardware.wait(5)
    finally:
        monitor.close()
    assert len(monitor.devices) == 4
    assert [each.device.parent_uuid for each in use.devices] == [None]
    assert use.energy_j is not None


def test_an_instance_of_a_stub_gpu_has_memory_and_no_energy_and_keeps_nobody_waiting(a100_mig):
    monitor = start_monitor(interval_s=PERIOD_S)
    try:
        instance = next(device for device in monitor.devices if device.parent_uuid is not None)
        use = run_request(0.1, gpus=(instance.uuid,)).hardware.wait(5)
    finally:
        monitor.close()
    assert [each.device for each in use.devices] == [instance]
    assert use.memory_peak_bytes is not None
    assert (use.energy_j, use.energy_method) == (None, None)


def test_an_instance_that_is_all_one_sees_of_a_stub_gpu_is_meant_by_its_name(a100_mig, monkeypatch):
    (gpu,) = (device for device in A100_MIG if device.mig)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu.mig[1].uuid)
    monitor = start_monitor(interval_s=PERIOD_S)
    try:
        use = run_request(0.1, gpus=(gpu.uuid,)).hardware.wait(5)
    finally:
        monitor.close()
    assert [each.device.uuid for each in use.devices] == [gpu.mig[1].uuid]


def test_the_enricher_names_what_the_stub_said(t4x2):
    monitor = start_monitor(interval_s=PERIOD_S, idle_power_w=10)
    try:
        enricher = GPUSpanEnricher(5)
        attributes = enricher.on_finish(run_request(0.3))
    finally:
        monitor.close()
    assert attributes["llamatelemetry.gpu.names"] == ("Tesla T4", "Tesla T4")
    assert attributes["llamatelemetry.gpu.energy.method"] == "counter"
    assert attributes["llamatelemetry.gpu.throttle_reasons"] == ()
    assert "llamatelemetry.gpu.energy.idle" not in attributes


def test_a_record_that_nobody_measured_gets_no_attributes():
    assert GPUSpanEnricher(5).on_finish(run_request()) == {}


def test_a_stub_without_devices_is_said_once_and_watched_by_nobody(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with NvmlStub((), tmp_path):
        assert start_monitor(interval_s=PERIOD_S) is None
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "no GPU is measured" in caplog.text
