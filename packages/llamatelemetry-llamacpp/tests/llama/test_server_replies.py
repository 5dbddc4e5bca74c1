from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from llamatelemetry.errors import BackendProtocolError
from llamatelemetry.llama.server_replies import Props, parse_metrics


def test_a_router_has_no_context_of_its_own():
    assert Props.from_json({"total_slots": 1, "default_generation_settings": {"n_ctx": 0}}).context_length is None


def test_metrics_text_of_the_reference_writer_is_read_back():
    registry = CollectorRegistry()
    Counter("llamacpp:a", "a", registry=registry).inc(3)
    Gauge("b", 'b with "quotes"', ["model", "other"], registry=registry).labels('x y"}', "z").set(-1.5e-9)
    Gauge("c", "c", registry=registry).set(math.inf)
    samples = parse_metrics(generate_latest(registry).decode())
    assert samples["llamacpp:a_total"] == 3
    assert samples["c"] == math.inf
    assert [value for name, value in samples.items() if name.startswith("b{")] == [-1.5e-9]


def test_a_time_stamp_after_a_sample_is_not_its_value():
    assert parse_metrics('a 1 1700000000000\n\n# HELP b\nb{c="d e"} 2 3\n') == {"a": 1, 'b{c="d e"}': 2}


@pytest.mark.parametrize("line", ["<html>", "a", "a b", "a{b} ", "{"])
def test_a_metrics_line_that_is_no_sample_is_shown(line):
    with pytest.raises(BackendProtocolError) as caught:
        parse_metrics(line)
    assert line in str(caught.value)
