from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from llamatelemetry.errors import ConfigurationError
from llamatelemetry.otel.prometheus import PrometheusEndpoint


def scraped(port: int) -> dict[str, list[tuple[str, dict[str, str], float]]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {f.name: [(s.name, s.labels, s.value) for s in f.samples] for f in families}


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_what_is_measured_can_be_scraped() -> None:
    endpoint = PrometheusEndpoint("127.0.0.1", 0)
    provider = MeterProvider([endpoint.reader], shutdown_on_exit=False)
    meter = provider.get_meter("t")
    histogram = meter.create_histogram("gen.wait", "s", "Time.", explicit_bucket_boundaries_advisory=[0.5, 1.0])
    histogram.record(0.7, {"model": "m"})
    try:
        samples = scraped(endpoint.port)["gen_wait_seconds"]
    finally:
        endpoint.close()
    buckets = {labels["le"]: value for name, labels, value in samples if name == "gen_wait_seconds_bucket"}
    assert buckets == {"0.5": 0, "1.0": 1, "+Inf": 1}
    assert ("gen_wait_seconds_sum", 0.7) in [(name, value) for name, _, value in samples]


def test_closing_frees_the_port_and_ends_the_thread() -> None:
    endpoint = PrometheusEndpoint("127.0.0.1", 0)
    assert is_listening(endpoint.port)
    endpoint.close()
    endpoint.close()
    assert not is_listening(endpoint.port)
    assert not endpoint._thread.is_alive()


def test_two_endpoints_do_not_show_each_others_metrics() -> None:
    first, second = PrometheusEndpoint("127.0.0.1", 0), PrometheusEndpoint("127.0.0.1", 0)
    MeterProvider([first.reader], shutdown_on_exit=False).get_meter("t").create_counter("only_first").add(1)
    try:
        assert "only_first" in scraped(first.port)
        assert scraped(second.port) == {}
    finally:
        first.close()
        second.close()


def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = threading.active_count()
        with pytest.raises(ConfigurationError, match=rf"prometheus_port={port} .*cannot be listened on.*or 0"):
            PrometheusEndpoint("127.0.0.1", port)
        assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_port() -> None:
    endpoint = PrometheusEndpoint("127.0.0.1", 0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        endpoint.close()
        assert not is_listening(endpoint.port)
    finally:
        os.close(write)
        os.waitpid(child, 0)


def test_without_the_extra_the_command_that_installs_it_is_named() -> None:
    code = """
import sys
sys.modules["prometheus_client"] = None
from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.otel.prometheus import PrometheusEndpoint
try:
    PrometheusEndpoint("127.0.0.1", 0)
except MissingDependencyError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip().endswith("Run: pip install 'llamatelemetry-core[prometheus]'")
