"""Real llama.cpp requests and a real collector, over a stub of the NVML library: no figure here is a GPU's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llamatelemetry
from llamatelemetry import InferenceEngine, InferenceRequest, InferenceResult, SamplingParams
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.otel.replay import replay
from llamatelemetry.testing.collector import OtlpSink, plain, running_rotel
from llamatelemetry.testing.emitted import EmittedSpan
from llamatelemetry.testing.nvml_stub import TESLA_T4_X2, NvmlStub, StubProcess
from llamatelemetry.testing.semconv import assert_valid_spans

MIB = 2**20
IDLE_W, BUSY_W = 10, 60


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[NvmlStub]:
    """Two Tesla T4 of a Kaggle notebook, as a script says they are."""
    with NvmlStub(TESLA_T4_X2, tmp_path) as scripted:
        for device in scripted.devices:
            device.power_w(IDLE_W)
            device.memory_used(1000 * MIB)
        yield scripted
        llamatelemetry.shutdown()


def ask(words: str, tokens: int = 24) -> InferenceRequest:
    return InferenceRequest(prompt=f"A story of {words}:", max_tokens=tokens, sampling=SamplingParams(temperature=0))


def run_at_power(server: LlamaServer, stub: NvmlStub, requests: list[InferenceRequest]) -> list[InferenceResult]:
    """Both devices draw more while the requests run, as they would if they served them."""
    return timed_run_at_power(server, stub, requests)[0]


def timed_run_at_power(
    server: LlamaServer, stub: NvmlStub, requests: list[InferenceRequest]
) -> tuple[list[InferenceResult], float]:
    """The same, and for how many seconds the devices drew more."""
    with InferenceEngine("llamacpp", server_url=server.url) as engine:
        begun_s = stub.now_s
        for device in stub.devices:
            device.power_w(BUSY_W)
            device.memory_used(1500 * MIB)
            device.utilization(80, 40)
        results = [future.result(60) for future in [engine.submit(request) for request in requests]]
        busy_s = stub.now_s - begun_s
        for device in stub.devices:
            device.power_w(IDLE_W)
            device.utilization(0, 0)
        for result in results:
            assert result.energy_j is not None
    return results, busy_s


def inference_spans(spans: tuple[EmittedSpan, ...]) -> list[EmittedSpan]:
    return [span for span in spans if "gen_ai.operation.name" in span.attributes]


def test_every_span_of_a_batch_has_its_share_of_what_the_stub_drew_and_its_memory(server, stub, telemetry):
    telemetry.start(gpu_idle_power_w=IDLE_W)
    requests = [ask(words) for words in ("a fox", "the sea", "two bees", "rain")]
    results, busy_s = timed_run_at_power(server, stub, requests)
    spans = telemetry.spans()
    assert_valid_spans(spans, ["gen_ai", "llm"])
    by_trace = {span.trace_id: span.attributes for span in inference_spans(spans)}
    assert len(by_trace) == 4
    for result in results:
        attributes = by_trace[result.trace_id]
        assert attributes["llamatelemetry.gpu.energy"] == pytest.approx(result.energy_j)
        assert attributes["llamatelemetry.gpu.energy.method"].startswith("counter")
        assert attributes["llamatelemetry.gpu.energy.uncertainty"] > 0
        assert attributes["llamatelemetry.gpu.scope"] == "device"
        assert len(attributes["llamatelemetry.gpu.ids"]) == 2
        assert attributes["llamatelemetry.gpu.memory.peak"] == 3000 * MIB
        assert result.vram_peak_mb == pytest.approx(3000 * MIB / 1e6)
        assert 0 < attributes["llamatelemetry.gpu.utilization"] <= 0.8 + 1e-9
    drawn = sum(result.energy_j for result in results)
    elapsed_s = stub.now_s
    busy_j = sum(device.energy_j(0, elapsed_s) for device in stub.devices) - 2 * IDLE_W * elapsed_s
    # Above idle was drawn while they ran, and while this test had turned power up and none of them ran yet
    # or any more; one counter step at either end may be another window's.
    alone_s = busy_s - max((result.duration_ms - result.queue_ms) / 1e3 for result in results)
    assert busy_j - 2 * BUSY_W * (alone_s + 0.2) <= drawn <= busy_j + 2 * BUSY_W * 0.2


def test_a_collector_gets_the_stubs_figures_as_hw_metrics_in_their_units(server, stub):
    with OtlpSink() as sink, running_rotel(pass_on_to=sink.endpoint) as rotel:
        llamatelemetry.init(otlp_endpoint=rotel.endpoint, gpu_idle_power_w=IDLE_W)
        [result] = run_at_power(server, stub, [ask("a fox")])
        assert llamatelemetry.shutdown().complete
        assert sink.wait_for(lambda received: len(received.spans) >= 4 and received.metrics)
        metrics = {metric.name: metric for metric in sink.metrics}
        units = {name: metrics[name].unit for name in metrics if name.startswith(("hw.", "llamatelemetry.gpu"))}
        resources = [group.resource for sent in sink.requests for group in getattr(sent, "resource_spans", ())]
        spans = [plain(span.attributes) for span in sink.spans]
    assert units["hw.energy"] == units["llamatelemetry.gpu.energy"] == "J"
    assert {name: units[name] for name in ("hw.power", "hw.temperature", "hw.gpu.memory.usage")} == {
        "hw.power": "W",
        "hw.temperature": "Cel",
        "hw.gpu.memory.usage": "By",
    }
    assert (units["hw.gpu.utilization"], units["hw.gpu.memory.utilization"], units["hw.status"]) == ("1", "1", "1")
    assert _by_device(metrics["hw.gpu.memory.usage"]) == dict.fromkeys(_uuids(), 1500 * MIB)
    assert _by_device(metrics["hw.gpu.memory.limit"])[_uuids()[0]] == TESLA_T4_X2[0].memory_total_bytes
    energy = _by_device(metrics["hw.energy"])
    split: dict[str, float] = dict.fromkeys(energy, 0.0)
    for point in metrics["llamatelemetry.gpu.energy"].sum.data_points:
        split[plain(point.attributes)["hw.id"]] += point.as_double
    for uuid, total in split.items():
        assert 0 < total <= energy[uuid] + 1e-6
    requests_j = [
        point.as_double
        for point in metrics["llamatelemetry.gpu.energy"].sum.data_points
        if plain(point.attributes)["llamatelemetry.gpu.energy.use"] == "requests"
    ]
    assert sum(requests_j) == pytest.approx(result.energy_j)
    assert {tuple(plain(resource.attributes)["llamatelemetry.gpu.names"]) for resource in resources} == {
        ("Tesla T4", "Tesla T4")
    }
    assert any("llamatelemetry.gpu.energy" in attributes for attributes in spans)


def _uuids() -> list[str]:
    return [device.uuid for device in TESLA_T4_X2]


def _by_device(metric: Any) -> dict[str, float]:
    points = (metric.sum if metric.HasField("sum") else metric.gauge).data_points
    values = {}
    for point in points:
        value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
        values[plain(point.attributes)["hw.id"]] = value
    return values


def test_requests_of_a_server_on_one_gpu_are_given_none_of_the_other_stub_device(server, stub, telemetry):
    telemetry.start(gpu_idle_power_w=IDLE_W)
    with InferenceEngine("llamacpp", server_url=server.url, gpus=[0]) as engine:
        stub.devices[1].power_w(200)
        result = engine.generate(ask("a fox"))
        assert result.energy_j is not None
    assert result.energy_j < 200 * result.duration_ms / 1e3 / 2
    [span] = inference_spans(telemetry.spans())
    assert span.attributes["llamatelemetry.gpu.ids"] == (_uuids()[0],)


def test_other_processes_on_the_stub_device_are_not_charged_to_requests(stub, telemetry):
    telemetry.start(gpu_idle_power_w=IDLE_W)
    with InferenceEngine("llamacpp", model=demo_model(), slots=1, context_length=256, threads=1) as engine:
        server_pid = engine.info.pid
        stub.devices[0].processes(
            [
                StubProcess(pid=server_pid, memory_bytes=700 * MIB, utilization=30),
                StubProcess(pid=server_pid + 1, memory_bytes=9 * MIB, utilization=30),
            ]
        )
        stub.devices[0].power_w(BUSY_W)
        # Process lists are read every few seconds, so the first answers may still be the whole device's.
        result = next(
            result
            for result in (engine.generate(ask("a fox", 8)) for _ in range(200))
            if result._record.hardware.wait().devices[0].energy_scope == "process"
        )
    use = result._record.hardware.wait()
    assert use.devices[0].process_memory_bytes == 700 * MIB
    assert use.devices[0].energy_j < (BUSY_W - IDLE_W) * (result.duration_ms / 1e3 + 0.2)


def test_a_section_of_any_code_is_a_span_with_what_the_stub_drew(stub, telemetry):
    telemetry.start(gpu_idle_power_w=IDLE_W)
    stub.devices[0].power_w(BUSY_W)
    with llamatelemetry.gpu_section("embed documents", {"documents": 3}) as section:
        threading.Event().wait(0.35)
    use = section.use()
    [span] = [span for span in telemetry.spans() if span.name == "embed documents"]
    assert_valid_spans([span], ["gen_ai"])
    assert span.attributes["documents"] == 3
    assert span.attributes["llamatelemetry.gpu.energy"] == pytest.approx(use.energy_j)
    assert use.energy_j == pytest.approx((BUSY_W - IDLE_W) * 0.35, rel=0.5)
    assert use.idle_j == pytest.approx(2 * IDLE_W * 0.35, rel=0.5)


def test_a_stub_device_lost_in_mid_run_costs_nobody_an_answer(server, stub, telemetry):
    telemetry.start(gpu_idle_power_w=IDLE_W)
    with InferenceEngine("llamacpp", server_url=server.url) as engine:
        before = engine.generate(ask("a fox", 8))
        assert before.energy_j is not None
        stub.devices[0].lose()
        during = engine.generate(ask("a fox", 8))
    assert during.text == before.text
    lost, kept = during._record.hardware.wait().devices
    assert lost.energy_j is None or lost.energy_j < BUSY_W
    assert kept.memory_peak_bytes == 1000 * MIB
    assert_valid_spans(telemetry.spans(), ["gen_ai", "llm"])


def test_energy_is_on_replayed_files_too(server, stub, telemetry):
    telemetry.start(gpu_idle_power_w=IDLE_W)
    run_at_power(server, stub, [ask("a fox", 4)])
    llamatelemetry.shutdown()
    with OtlpSink() as sink:
        replay(telemetry.folder, sink.endpoint)
        attributes = [plain(span.attributes) for span in sink.spans]
    assert sum("llamatelemetry.gpu.energy" in each for each in attributes) == 1


CHILD = """
import os, sys
import llamatelemetry as lt
from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.testing.nvml_stub import *

class OnGPU(EchoBackend):
    def open(self):
        from dataclasses import replace
        return replace(super().open(), gpus=None)

def ask():
    with lt.InferenceEngine(OnGPU(EchoScript(prefill_s=0.25))) as engine:
        return engine.generate(lt.InferenceRequest(prompt="one")).energy_j

lt.init(telemetry_dir=sys.argv[1])
assert ask() > 0
if (child := os.fork()) == 0:
    energy = ask()
    lt.shutdown()
    os._exit(0 if energy and energy > 0 else 9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert ask() > 0
"""


def test_a_forked_child_measures_its_own_requests_on_the_stub(stub, tmp_path):
    stub.devices[0].power_w(BUSY_W)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILD, str(tmp_path / "telemetry")],
        env={**os.environ, **stub.environ, "LLAMATELEMETRY_GPU_IDLE_POWER": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


NO_DRIVER = """
import logging, sys
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", stream=sys.stdout)
import llamatelemetry as lt
lt.init(telemetry_dir=sys.argv[1])
with lt.InferenceEngine("echo") as engine, lt.gpu_section("anything") as section:
    result = engine.generate(lt.InferenceRequest(prompt="one"))
assert (result.text, result.energy_j, result.vram_peak_mb, section.use()) == ("one", None, None, None)
assert lt.shutdown().complete
"""


def test_without_a_driver_one_info_line_says_so_and_everything_else_works(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NO_DRIVER, str(tmp_path / "telemetry")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    assert line.startswith("INFO no GPU is measured: no NVIDIA driver")
    [traces] = (tmp_path / "telemetry").glob("traces-*.jsonl")
    assert "anything" in traces.read_text()


def test_measuring_can_be_turned_off_where_the_stub_is(stub, telemetry):
    telemetry.start(gpu=False)
    with InferenceEngine("echo") as engine:
        assert engine.generate(InferenceRequest(prompt="one")).energy_j is None
    assert stub.calls() == 0
