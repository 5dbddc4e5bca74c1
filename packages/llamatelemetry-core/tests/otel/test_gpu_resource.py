from __future__ import annotations

import json
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from llamatelemetry.config import Settings
from llamatelemetry.gpu.device import DriverState, DriverStatus, GPUDevice
from llamatelemetry.otel.gpu_resource import gpu_resource
from llamatelemetry.otel.otlp_json import metrics_request
from llamatelemetry.otel.resource import build_resource
from llamatelemetry.testing.collector import OtlpSink, plain, running_rotel

READY = DriverStatus(
    state=DriverState.READY, message="2 GPUs are read.", driver_version="550.54.15", cuda_version="12.4"
)
GPUS = tuple(
    GPUDevice(index=index, uuid=f"GPU-{index}", name="Tesla T4", memory_total_bytes=2**34) for index in range(2)
)
EXPECTED = {
    "llamatelemetry.gpu.count": 2,
    "llamatelemetry.gpu.names": ("Tesla T4", "Tesla T4"),
    "llamatelemetry.gpu.uuids": ("GPU-0", "GPU-1"),
    "llamatelemetry.gpu.memory.total": 2**35,
    "llamatelemetry.gpu.driver_version": "550.54.15",
    "llamatelemetry.gpu.cuda_version": "12.4",
}


def of_gpus(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name.startswith("llamatelemetry.gpu.")}


def test_the_resource_says_which_gpus_there_are() -> None:
    assert gpu_resource(GPUS, READY) == EXPECTED


def test_without_a_driver_it_says_nothing() -> None:
    assert gpu_resource((), DriverStatus(state=DriverState.NO_DRIVER, message="There is no driver.")) == {}


def test_a_driver_that_shows_no_device_is_none_and_not_unknown() -> None:
    status = DriverStatus(state=DriverState.NO_DEVICE, message="All are hidden.", driver_version="550.54.15")
    assert gpu_resource((), status) == {
        "llamatelemetry.gpu.count": 0,
        "llamatelemetry.gpu.driver_version": "550.54.15",
    }


def test_instances_of_a_gpu_that_is_there_are_not_counted_beside_it() -> None:
    halves = [
        GPUDevice(index=1, uuid=f"MIG-{half}", name="half", memory_total_bytes=2**33, parent_uuid="GPU-1")
        for half in range(2)
    ]
    assert gpu_resource((*GPUS, *halves), READY) == EXPECTED
    alone = gpu_resource(halves[:1], READY)
    assert (alone["llamatelemetry.gpu.count"], alone["llamatelemetry.gpu.uuids"]) == (1, ("MIG-0",))
    assert alone["llamatelemetry.gpu.memory.total"] == 2**33


def test_a_total_that_lacks_a_part_is_left_out() -> None:
    devices = (*GPUS, GPUDevice(index=2, uuid="GPU-2", name="a GPU"))
    found = gpu_resource(devices, READY)
    assert found["llamatelemetry.gpu.count"] == 3
    assert "llamatelemetry.gpu.memory.total" not in found


def test_lists_arrive_at_a_collector_as_lists() -> None:
    with OtlpSink() as sink, running_rotel(pass_on_to=sink.endpoint) as rotel:
        provider = TracerProvider(resource=build_resource(Settings(), gpu_resource(GPUS, READY)))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{rotel.endpoint}/v1/traces")))
        provider.get_tracer("t").start_span("s").end()
        provider.shutdown()
        assert sink.wait_for(lambda it: it.spans)
    [request] = sink.requests
    [group] = request.resource_spans
    assert of_gpus(plain(group.resource.attributes)) == EXPECTED


def test_lists_are_lists_in_a_file_too() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=build_resource(Settings(), gpu_resource(GPUS, READY)))
    provider.get_meter("t").create_counter("c").add(1)
    [group] = json.loads(json.dumps(metrics_request(reader.get_metrics_data())))["resourceMetrics"]
    values = {pair["key"]: pair["value"] for pair in group["resource"]["attributes"]}
    assert values["llamatelemetry.gpu.uuids"] == {
        "arrayValue": {"values": [{"stringValue": "GPU-0"}, {"stringValue": "GPU-1"}]}
    }
    provider.shutdown()
