from __future__ import annotations

import gzip
import socket
from typing import Literal

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from llamatelemetry.testing.collector import OtlpSink, broken_endpoint, plain, running_rotel, span_from_otlp

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def one_span() -> bytes:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="n")
    span.attributes.add(key="k").value.kvlist_value.values.add(key="inner").value.int_value = 3
    span.links.add(trace_id=b"\x0a" * 16, span_id=b"\x0b" * 8)
    return request.SerializeToString()


def test_a_sink_decodes_what_it_is_sent_gzipped_or_not() -> None:
    with OtlpSink() as sink:
        for body in (one_span(), gzip.compress(one_span())):
            assert requests.post(f"{sink.endpoint}/v1/traces", body, headers=PROTOBUF, timeout=10).ok
        assert sink.wait_for(lambda it: len(it.spans) == 2)
    assert [span.name for span in sink.spans] == ["n", "n"]
    assert plain(sink.spans[0].attributes) == {"k": {"inner": 3}}
    assert [(link.trace_id, link.span_id) for link in span_from_otlp(sink.spans[0]).links] == [("0a" * 16, "0b" * 8)]


def test_a_sink_refuses_what_it_is_told_to_and_what_is_not_otlp() -> None:
    with OtlpSink(503) as sink:
        answers = [
            requests.post(f"{sink.endpoint}/v1/traces", one_span(), headers=PROTOBUF, timeout=10),
            requests.post(
                f"{sink.endpoint}/v1/traces", b"{}", headers={"Content-Type": "application/json"}, timeout=10
            ),
            requests.post(f"{sink.endpoint}/v1/other", one_span(), headers=PROTOBUF, timeout=10),
        ]
    assert [answer.status_code for answer in answers] == [503, 415, 404]
    assert sink.requests == []


@pytest.mark.parametrize("fault", ["refuses", "accepts nothing", "answers nothing"])
def test_a_broken_endpoint_never_answers(fault: Literal["refuses", "accepts nothing", "answers nothing"]) -> None:
    expected = requests.ConnectionError if fault == "refuses" else requests.Timeout
    with broken_endpoint(fault) as endpoint, pytest.raises(expected):
        requests.post(endpoint, b"x", timeout=0.2)


def test_a_collector_says_what_it_received_and_is_gone_afterwards() -> None:
    with running_rotel() as rotel:
        assert requests.post(f"{rotel.endpoint}/v1/traces", one_span(), headers=PROTOBUF, timeout=10).ok
        assert "Name           : n" in rotel.wait_for("Name           : n")
        with pytest.raises(TimeoutError, match="nowhere to be seen"):
            rotel.wait_for("nowhere to be seen", timeout_s=0.1)
    with socket.socket() as client:
        host, port = rotel.endpoint.removeprefix("http://").split(":")
        assert client.connect_ex((host, int(port))) != 0
