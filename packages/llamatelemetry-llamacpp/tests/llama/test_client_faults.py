"""The client against servers that misbehave, each over a real socket."""

from __future__ import annotations

import json
import socket
import struct
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from llamatelemetry.errors import (
    BackendConnectionError,
    BackendProtocolError,
    BackendResponseError,
    ContextOverflowError,
    InvalidRequestError,
    LlamatelemetryError,
    NotSupportedError,
    RequestCancelledError,
    ServerLoadingError,
    StreamInterruptedError,
)
from llamatelemetry.llama import exchange as exchange_module
from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.transport import is_loopback

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
END = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(message: object) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"


def chat(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


DONE = b"data: [DONE]\n\n"
WHOLE = framed(chat("a")) + framed(chat("b")) + framed(DONE) + END


def reply(status: str, body: bytes, kind: bytes = b"application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode()
    return head + b"Content-Type: " + kind + b"\r\n\r\n" + body


def texts(url: str, **options) -> list[str]:
    with LlamaClient(url, **options) as client, client.chat({}) as stream:
        return [chunk.content for chunk in stream]


def failure(url: str, **options) -> tuple[list[str], Exception]:
    """What arrived, and the error after it."""
    arrived: list[str] = []
    with LlamaClient(url, **options) as client, client.chat({}) as stream:
        try:
            arrived.extend(chunk.content for chunk in stream)
        except LlamatelemetryError as error:
            assert list(stream) == [], "a stream that failed is over"
            return arrived, error
    raise AssertionError("it did not fail")


def test_a_whole_stream_is_read(answering):
    assert texts(answering(STREAM + WHOLE)) == ["a", "b"]


def test_a_stream_without_chunked_framing_is_read(answering):
    assert texts(answering(UNFRAMED + chat("a") + chat("b") + DONE)) == ["a", "b"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_stream_in_tiny_pieces_is_read(answering, size):
    body = STREAM + framed(b": ping\n\n") + framed(chat("ä漢🦙")) + WHOLE
    assert texts(answering(*(body[i : i + size] for i in range(0, len(body), size)))) == ["ä漢🦙", "a", "b"]


def test_a_chunk_is_delivered_before_the_next_one_is_sent(scripted, read_request):
    """Each event is sent only once the client has handed over the one before it."""
    taken = threading.Semaphore(0)
    waited = []

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM)
        for text in "abc":
            connection.sendall(framed(chat(text)))
            waited.append(taken.acquire(timeout=10))
        connection.sendall(framed(DONE) + END)

    with LlamaClient(scripted(script)) as client:
        for _ in client.chat({}):
            taken.release()
    assert waited == [True, True, True]


def test_an_event_is_delivered_before_its_http_chunk_is_whole(scripted, read_request):
    taken = threading.Event()
    waited = []

    def script(connection: socket.socket) -> None:
        read_request(connection)
        body = chat("a") + chat("b") + DONE
        connection.sendall(STREAM + framed(body)[: len(chat("a")) + 10])
        waited.append(taken.wait(10))
        connection.sendall(framed(body)[len(chat("a")) + 10 :] + END)

    with LlamaClient(scripted(script)) as client:
        for _ in client.chat({}):
            taken.set()
    assert waited == [True]


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        END,
        framed(b"data: {") + END,
        b"40\r\ndata: {",
        b"40\r\n",
        b"4",
    ],
)
def test_a_stream_that_is_cut_off_is_a_partial_answer(answering, rest):
    arrived, error = failure(answering(STREAM + framed(chat("a")) + rest))
    assert arrived == ["a"]
    assert isinstance(error, StreamInterruptedError)


def test_a_completion_without_its_last_chunk_is_a_partial_answer(answering):
    body = framed(event({"content": "a", "stop": False})) + END
    with LlamaClient(answering(STREAM + body)) as client:
        stream = client.complete({})
        assert next(stream).content == "a"
        with pytest.raises(StreamInterruptedError):
            next(stream)


def test_a_reset_in_the_middle_is_a_partial_answer(scripted, read_request):
    taken = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM + framed(chat("a")))
        taken.wait(10)
        # Closing with no time to linger resets the connection, as when a process is killed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with LlamaClient(scripted(script)) as client, client.chat({}) as stream:
        assert next(stream).content == "a"
        taken.set()
        with pytest.raises(StreamInterruptedError, match=r"broke off.*reset"):
            next(stream)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>\n\n",
        b"data: nonsense\n\n",
        b"data: [1]\n\n",
        b"data: {}\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: \xff\n\n",
        event({"choices": 3}),
        event({"choices": [3]}),
        event({"choices": [{"delta": 3}]}),
        event({"choices": [{"delta": {"content": 3}}]}),
        event({"choices": [{"delta": {}, "finish_reason": 3}]}),
        event({"choices": [{"delta": {"tool_calls": 3}}]}),
        event({"choices": [{"delta": {"tool_calls": [3]}}]}),
        event({"choices": [], "usage": 3}),
        event({"choices": [], "usage": {"prompt_tokens": "3"}}),
        event({"choices": [], "timings": {"prompt_ms": "3"}}),
        event({"choices": [], "timings": {"cache_n": True}}),
    ],
)
def test_what_is_no_chunk_is_a_breach_of_protocol(answering, data):
    for stream in (STREAM + framed(chat("a")) + framed(data) + END, UNFRAMED + chat("a") + data):
        arrived, error = failure(answering(stream))
        assert arrived == ["a"]
        assert isinstance(error, BackendProtocolError)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00\x05",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
        reply("200 OK", b"<html>", b"text/html"),
        reply("200 OK", b"{}"),
        STREAM + b"xyz\r\n",
        STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + framed(b"this is not gzip"),
    ],
)
def test_what_is_no_event_stream_is_an_error(answering, answer):
    arrived, error = failure(answering(answer))
    assert arrived == []
    assert isinstance(error, BackendProtocolError | StreamInterruptedError)


def test_silence_before_the_answer_is_a_connection_error(scripted, read_request):
    hold = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        hold.wait(10)

    arrived, error = failure(scripted(script), stream_timeout_s=0.2)
    hold.set()
    assert arrived == []
    assert isinstance(error, BackendConnectionError)
    assert "silent for 0.2 s" in str(error)


def test_silence_in_the_middle_is_a_partial_answer(scripted, read_request):
    hold = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM + framed(chat("a")))
        hold.wait(10)

    arrived, error = failure(scripted(script), stream_timeout_s=0.2)
    hold.set()
    assert arrived == ["a"]
    assert isinstance(error, StreamInterruptedError)
    assert "silent for 0.2 s" in str(error)


def test_pings_are_not_silence(scripted, read_request):
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM)
        for _ in range(4):
            connection.sendall(framed(b":\n\n"))
            threading.Event().wait(0.1)
        connection.sendall(WHOLE)

    assert texts(scripted(script), stream_timeout_s=0.3) == ["a", "b"]


def test_a_server_that_never_ends_the_body_does_not_hold_the_answer_back(scripted, read_request):
    hold = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM + framed(chat("a")) + framed(DONE))
        hold.wait(10)

    assert texts(scripted(script)) == ["a"]
    hold.set()


def test_nobody_there_is_a_connection_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    arrived, error = failure(f"http://127.0.0.1:{port}")
    assert arrived == []
    assert isinstance(error, BackendConnectionError)
    assert error.address == f"127.0.0.1:{port}"
    assert "refused" in str(error)


def test_a_hang_up_instead_of_an_answer_is_a_connection_error(answering):
    arrived, error = failure(answering(b""))
    assert arrived == []
    assert isinstance(error, BackendConnectionError)


def test_an_error_in_the_stream_is_typed_like_one_before_it(answering):
    overflow = {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}
    arrived, error = failure(answering(STREAM + framed(chat("a")) + framed(event({"error": overflow})) + END))
    assert arrived == ["a"]
    assert isinstance(error, ContextOverflowError)
    assert (error.prompt_tokens, error.context_length) == (9, 8)


def test_a_chunk_that_says_that_there_is_no_error_is_a_chunk(answering):
    chunk = event({"choices": [{"index": 0, "delta": {"content": "a"}}], "error": None})
    assert texts(answering(UNFRAMED + chunk + DONE)) == ["a"]


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        ("503 Service Unavailable", b'{"error":{"code":503,"message":"Loading model"}}', ServerLoadingError, "Loading"),
        ("501 Not Implemented", b'{"error":{"code":501,"message":"no"}}', NotSupportedError, "no"),
        ("401 Unauthorized", b'{"error":{"code":401,"message":"Invalid API Key"}}', BackendResponseError, "API Key"),
        ("502 Bad Gateway", b"<html>nginx</html>", BackendResponseError, "502.*Bad Gateway"),
        ("429 Too Many Requests", b'{"error":"slow down"}', BackendResponseError, "slow down"),
        ("500 Internal Server Error", b'{"error":{"code":true,"message":[1]}}', BackendResponseError, "500"),
        ("500 Internal Server Error", b"[" * 100_000, BackendResponseError, "500"),
        ("302 Found", b"", BackendResponseError, "302"),
    ],
)
def test_a_refusal_is_typed_by_its_status(answering, status, body, kind, says):
    with LlamaClient(answering(reply(status, body))) as client:
        with pytest.raises(kind, match=says) as caught:
            next(client.chat({}))
        assert type(caught.value) is kind
        assert caught.value.status == int(status[:3])


def test_a_server_that_loads_its_model_is_not_ready(answering):
    loading = reply("503 Service Unavailable", b'{"error":{"code":503,"message":"Loading model","type":"x"}}')
    with LlamaClient(answering(loading)) as client:
        health = client.health()
        assert not health.ready
        assert "Loading model" in health.status
        with pytest.raises(ServerLoadingError):
            client.props()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"null", b"\xff", b'{"total_slots":"4"}', b"[" * 100_000])
def test_a_reply_that_is_not_what_was_asked_for_is_a_breach_of_protocol(answering, body):
    with LlamaClient(answering(reply("200 OK", body))) as client:
        for question in (client.props, client.models, lambda: client.tokenize("a"), lambda: client.embeddings(["a"])):
            with pytest.raises(BackendProtocolError):
                question()


def test_slots_and_tokens_are_checked_one_by_one(answering):
    with LlamaClient(answering(reply("200 OK", b'[{"id":0}]'))) as client, pytest.raises(BackendProtocolError):
        client.slots()
    with LlamaClient(answering(reply("200 OK", b'{"tokens":["a"]}'))) as client, pytest.raises(BackendProtocolError):
        client.tokenize("a")


def test_a_reply_without_end_is_given_up(scripted, read_request, monkeypatch):
    monkeypatch.setattr(exchange_module, "MAX_REPLY_BYTES", 2**20)

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with LlamaClient(scripted(script)) as client:
        tracemalloc.start()
        with pytest.raises(BackendProtocolError, match="more than 1048576 bytes"):
            client.props()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize("content", [{"a set"}, float("nan"), b"bytes"], ids=["set", "nan", "bytes"])
def test_what_is_no_json_is_the_callers_to_mend_and_no_fault_of_a_connection(scripted, content):
    connections = []
    with LlamaClient(scripted(connections.append)) as client, client.chat({"messages": [content]}) as stream:
        with pytest.raises(InvalidRequestError, match="JSON"):
            next(stream)
        assert list(stream) == []
    assert not connections


def test_a_request_that_gets_no_answer_is_not_sent_twice(scripted, read_request):
    requests = []
    url = scripted(lambda connection: requests.append(read_request(connection)))
    with LlamaClient(url) as client, pytest.raises(BackendConnectionError):
        client.health()
    assert len(requests) == 1


def test_no_connection_is_kept_after_an_answer(scripted, read_request):
    hung_up = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(reply("200 OK", b'{"status":"ok"}'))
        if read_request(connection) == b"":
            hung_up.set()

    with LlamaClient(scripted(script)) as client:
        client.health()
        assert hung_up.wait(10)


def test_nothing_is_said_of_how_many_streams_run_at_once(read_request, caplog):
    streams = 12
    with (
        socket.create_server(("127.0.0.1", 0), backlog=streams) as listener,
        LlamaClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client,
        ThreadPoolExecutor(streams) as threads,
        ExitStack() as connections,
    ):
        answers = [threads.submit(list, client.chat({})) for _ in range(streams)]
        waiting = [connections.enter_context(listener.accept()[0]) for _ in range(streams)]
        for connection in waiting:
            read_request(connection)
            connection.sendall(UNFRAMED + chat("a") + DONE)
        assert [[chunk.content for chunk in answer.result(10)] for answer in answers] == [["a"]] * streams
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_closing_while_the_server_thinks_wakes_the_reader(scripted, read_request):
    thinking = threading.Event()
    hung_up = threading.Event()

    def script(connection: socket.socket) -> None:
        read_request(connection)
        thinking.set()
        if connection.recv(1) == b"":
            hung_up.set()

    client = LlamaClient(scripted(script))
    stream = client.chat({})
    outcome = []

    def reader() -> None:
        try:
            outcome.extend(stream)
        except RequestCancelledError as error:
            outcome.append(error)

    thread = threading.Thread(target=reader)
    thread.start()
    assert thinking.wait(10)
    stream.close()
    thread.join(10)
    assert [type(item) for item in outcome] == [RequestCancelledError]
    assert hung_up.wait(10)
    client.close()


def test_a_stream_closed_before_it_began_connects_to_nobody(scripted):
    seen = []
    with LlamaClient(scripted(seen.append)) as client:
        stream = client.chat({})
        stream.close()
        assert list(stream) == []
    assert seen == []


def test_the_request_carries_what_was_asked_for(scripted, read_request):
    requests = []

    def script(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(STREAM + WHOLE)

    traceparent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with LlamaClient(scripted(script) + "/prefix/", api_key="key") as client:
        list(client.chat({"messages": []}, id_slot=3, traceparent=traceparent))
    head, _, body = requests[0].partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /prefix/v1/chat/completions http/1.1"
    assert f"traceparent: {traceparent}" in lines
    assert "authorization: bearer key" in lines
    assert "accept-encoding: identity" in lines
    assert "connection: close" in lines
    assert json.loads(body) == {
        "messages": [],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "id_slot": 3,
    }


def test_tool_calls_and_reasoning_arrive_in_pieces(answering):
    def piece(**delta):
        return framed(event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))

    first = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "f", "arguments": ""}}
    body = (
        piece(reasoning_content="hm")
        + piece(tool_calls=[first])
        + piece(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}])
        + piece(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}])
        + framed(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}))
        + framed(DONE)
        + END
    )
    with LlamaClient(answering(STREAM + body)) as client:
        chunks = list(client.chat({}))
    assert chunks[0].reasoning == "hm"
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert [(call.index, call.id, call.name) for call in calls] == [
        (0, "call-1", "f"),
        (0, None, None),
        (0, None, None),
    ]
    assert json.loads("".join(call.arguments for call in calls)) == {"a": 1}
    assert chunks[-1].finish_reason == "tool_calls"


def test_no_proxy_is_asked_for_this_machine(answering, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert texts(answering(STREAM + WHOLE)) == ["a", "b"]


def test_a_proxy_is_asked_for_another_machine(scripted, read_request, monkeypatch):
    asked = []

    def script(connection: socket.socket) -> None:
        asked.append(read_request(connection).split(b"\r\n")[0])
        connection.sendall(STREAM + WHOLE)

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", scripted(script))
    assert texts("http://llama.invalid:8080") == ["a", "b"]
    assert asked == [b"POST http://llama.invalid:8080/v1/chat/completions HTTP/1.1"]


def test_the_key_it_is_given_goes_before_what_a_netrc_has_for_the_host(scripted, read_request, monkeypatch, tmp_path):
    asked = []

    def script(connection: socket.socket) -> None:
        asked.append(read_request(connection))
        connection.sendall(STREAM + WHOLE)

    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", scripted(script))
    assert texts("http://llama.invalid:8080", api_key="key") == ["a", "b"]
    assert b"\r\nAuthorization: Bearer key\r\n" in asked[0]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("x.org", False),
    ],
)
def test_loopback_is_told_from_the_network(host, loopback):
    assert is_loopback(host) is loopback
