from __future__ import annotations

import logging
import socket
import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from llamatelemetry.clock import ManualClock
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.metrics import LlamaServerMetrics
from llamatelemetry.semconv.server_metrics import SERVER, SLOTS_BUSY, SLOTS_LIMIT


class Reading:
    """A meter of its own, and what it collects: ``{name: {model: value}}``."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader])
        self.meter = self._provider.get_meter("test")

    def points(self):
        data = self._reader.get_metrics_data()
        return [
            (metric, point)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        ]

    def values(self):
        found = {}
        for metric, point in self.points():
            found.setdefault(metric.name, {})[point.attributes["gen_ai.request.model"]] = point.value
        return found

    def close(self) -> None:
        self._provider.shutdown()


@pytest.fixture
def reading():
    made = Reading()
    yield made
    made.close()


@pytest.fixture
def time():
    return ManualClock()


@pytest.fixture
def client(server):
    with LlamaClient(server.url) as made:
        yield made


def test_a_servers_counters_become_instruments_with_a_model_label(client, reading, time):
    with LlamaServerMetrics(client, model="m", meter=reading.meter, clock=time.clock) as metrics:
        before = reading.values()
        assert before["llamatelemetry.server.slots.limit"] == {"m": 2}
        assert before["llamatelemetry.server.slots.busy"] == {"m": 0}
        usage = list(client.complete({"prompt": "One two three", "n_predict": 5, "ignore_eos": True}))[-1].usage
        time.advance(2)
        after = reading.values()
        found = {metric.name: (metric, point) for metric, point in reading.points()}

    def grown(name):
        return after[f"llamatelemetry.server.{name}"]["m"] - before[f"llamatelemetry.server.{name}"]["m"]

    assert grown("decode.tokens") == usage.completion_tokens == 5
    assert grown("prefill.tokens") + grown("prefill.cached_tokens") == usage.prompt_tokens
    assert grown("decode.time") > 0
    assert set(after) == {row.name for row in SERVER}
    for row in SERVER:
        metric, point = found[row.name]
        assert (metric.unit, metric.description) == (row.unit, row.brief)
        assert dict(point.attributes) == dict(metrics.attributes)
        assert set(point.attributes) <= {attribute.name for attribute in row.attributes}
    assert metrics.attributes["gen_ai.provider.name"] == "llamacpp"
    assert metrics.attributes["server.port"] == client.port


def test_a_slot_at_work_is_counted(client, reading, time):
    with LlamaServerMetrics(client, model="m", meter=reading.meter, clock=time.clock) as metrics:
        with client.complete({"prompt": "Once", "n_predict": 400, "ignore_eos": True}) as stream:
            next(stream)
            assert metrics.latest()[SLOTS_BUSY] == 1
        assert metrics.latest()[SLOTS_LIMIT] == 2


METRICS = b"llamacpp:tokens_predicted_total 7\n"
SLOTS = b'[{"id":0,"is_processing":false}]'


@pytest.fixture
def counting(scripted, read_request):
    """A server that counts how often it is asked for what; gives its client and the questions."""
    questions: list[str] = []

    def script(connection: socket.socket) -> None:
        while request := read_request(connection):
            path = request.split()[1].decode()
            questions.append(path)
            body = METRICS if path == "/metrics" else SLOTS
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with LlamaClient(scripted(script)) as client:
        yield client, questions


def test_the_server_is_asked_once_per_interval_however_often_readers_collect(counting, reading, time):
    client, questions = counting
    other = Reading()
    with (
        LlamaServerMetrics(client, model="m", meter=reading.meter, clock=time.clock) as metrics,
        LlamaServerMetrics(client, model="n", meter=other.meter, interval_s=10, clock=time.clock),
    ):
        for _ in range(10):
            reading.values()
            other.values()
            metrics.latest()
        assert questions == ["/metrics", "/slots"] * 2
        time.advance(1.9)
        reading.values()
        assert len(questions) == 4
        time.advance(0.1)
        reading.values()
        assert len(questions) == 6
    other.close()


def test_readers_that_collect_at_once_ask_once(counting, reading, time):
    client, questions = counting
    with LlamaServerMetrics(client, model="m", meter=reading.meter, clock=time.clock) as metrics:
        threads = [threading.Thread(target=metrics.latest) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert questions == ["/metrics", "/slots"]


def test_two_servers_on_one_meter_are_told_apart(counting, reading, time):
    client, _ = counting
    first = LlamaServerMetrics(client, model="a", meter=reading.meter, clock=time.clock)
    second = LlamaServerMetrics(client, model="b", meter=reading.meter, clock=time.clock)
    assert reading.values()["llamatelemetry.server.decode.tokens"] == {"a": 7, "b": 7}
    first.close()
    first.close()
    assert reading.values()["llamatelemetry.server.decode.tokens"] == {"b": 7}
    second.close()
    assert reading.values() == {}


def test_a_server_that_is_gone_reports_nothing_and_raises_nothing(reading, time, caplog):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with LlamaClient(url) as client, LlamaServerMetrics(client, model="m", meter=reading.meter, clock=time.clock):
        assert reading.values() == {}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", b"nonsense\r\n\r\n"])
def test_a_server_that_answers_nonsense_reports_nothing_and_raises_nothing(answering, reading, time, answer):
    with (
        LlamaClient(answering(answer)) as client,
        LlamaServerMetrics(client, model="m", meter=reading.meter, clock=time.clock),
    ):
        assert reading.values() == {}


def test_what_a_server_was_not_started_for_is_said_once(answering, reading, time, caplog):
    body = b'{"error":{"code":501,"message":"Start it with `--metrics`","type":"not_supported_error"}}'
    url = answering(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    with LlamaClient(url) as client, LlamaServerMetrics(client, model="m", meter=reading.meter, clock=time.clock):
        for _ in range(3):
            assert reading.values() == {}
            time.advance(2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([text for text in warnings if "/metrics" in text and "--metrics" in text]) == 1


def test_a_poll_that_would_starve_the_server_is_refused(client):
    with pytest.raises(InvalidValueError, match="interval_s"):
        LlamaServerMetrics(client, model="m", interval_s=1.9)
