from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from llamatelemetry.backends.protocol import CancelToken, Placement, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import (
    BackendConnectionError,
    BackendError,
    BackendStartError,
    ContextOverflowError,
    InvalidRequestError,
    InvalidValueError,
    ModelFileError,
    StreamInterruptedError,
)
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.llama import backend as backend_module
from llamatelemetry.llama.backend import LlamaCppBackend
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.testing.contracts import BackendContract

QUESTION = ({"role": "user", "content": "What is the capital of France? Answer in one sentence."},)
GREEDY = SamplingParams(temperature=0.0)


def own(model=None, **options) -> LlamaCppBackend:
    """A backend with a small server of its own."""
    return LlamaCppBackend(
        demo_model() if model is None else model, **{"slots": 2, "context_length": 512, "threads": 1, **options}
    )


class TestOwnedServer(BackendContract):
    def make_backend(self) -> LlamaCppBackend:
        return own()


@pytest.fixture
def backend(server) -> Iterator[LlamaCppBackend]:
    """A backend that uses the server all tests share."""
    opened = LlamaCppBackend(server_url=server.url)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def owned() -> Iterator[LlamaCppBackend]:
    """A backend with a server that a test may kill."""
    opened = own()
    opened.open()
    yield opened
    opened.close()


def chat(**changes) -> InferenceRequest:
    return InferenceRequest(**{"messages": QUESTION, "max_tokens": 16, "sampling": GREEDY, **changes})


def answer(backend, request, placement=None) -> tuple[str, StreamEnd]:
    *deltas, end = backend.stream(request, Placement() if placement is None else placement)
    assert isinstance(end, StreamEnd)
    return "".join(delta.text for delta in deltas), end


class Relay:
    """Forwards bytes between one caller and a real server, and keeps what the caller sent."""

    def __init__(self, port: int, downstream: Callable[[bytes], bytes] = lambda piece: piece) -> None:
        self._target = port
        self._downstream = downstream
        self._seen: list[bytes] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> tuple[int, list[bytes]]:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._run(self._accept)
        return self._listener.getsockname()[1], self._seen

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _run(self, target, *arguments) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._run(self._pump, caller, server, self._note)
            self._run(self._pump, server, caller, self._downstream)

    def _note(self, piece: bytes) -> bytes:
        self._seen.append(piece)
        return piece

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(change(piece))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            source.close()


@contextmanager
def loading_server() -> Iterator[int]:
    """Answers everything as llama-server does while it loads its model."""
    body = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
    reply = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reply += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(65536)
                    caller.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_question_is_answered_with_every_figure(backend):
    text, end = answer(backend, chat())
    assert "Paris" in text
    assert end.finish_reason == "stop"
    assert end.usage.input_tokens == backend.count_prompt_tokens(chat())
    assert 0 < end.usage.output_tokens <= 16
    assert end.usage.cached_tokens + end.timings.prefill_tokens == end.usage.input_tokens
    assert end.timings.prefill_ms > 0
    assert end.timings.decode_ms > 0
    assert end.response_id.startswith("chatcmpl-")
    assert end.response_model == "SmolLM2-135M-Instruct"
    assert end.raw["timings"]["predicted_n"] == end.usage.output_tokens


def test_a_prompt_is_continued_on_the_slot_it_was_given(backend):
    request = InferenceRequest(prompt="Once upon a time", max_tokens=4, sampling=GREEDY)
    text, end = answer(backend, request, Placement(slot_id=1))
    assert text
    assert end.slot_id == 1
    assert end.finish_reason == "length"
    assert end.usage.input_tokens == backend.count_prompt_tokens(request) == 4
    assert end.usage.output_tokens == 4


def test_seed_and_sampling_reach_the_model(backend):
    def drawn(seed):
        sampling = SamplingParams(temperature=1.5, top_k=0)
        return answer(backend, chat(seed=seed, sampling=sampling, max_tokens=12), Placement(slot_id=0))[0]

    drawn(1)  # so that both below find the same cache
    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_plain_text_is_tokenized_as_text(backend):
    ids = backend.tokenize("Once upon a time")
    assert len(ids) == 4
    assert all(isinstance(token, int) for token in ids)
    assert len(backend.tokenize("<|im_start|>")) > 1, "a marker in a text is no marker"
    assert list(backend.tokenize("")) == []


def test_tokens_of_a_server_that_is_gone_are_a_typed_error(owned):
    owned.server.stop()
    with pytest.raises(BackendConnectionError):
        owned.tokenize("a")
    owned.close()
    with pytest.raises(BackendError, match="open"):
        owned.tokenize("a")


def test_a_stop_string_ends_the_answer(backend):
    text, end = answer(backend, chat(stop="France"))
    assert "France" not in text
    assert end.finish_reason == "stop"


def test_a_response_format_is_honoured(backend):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    text, _ = answer(backend, chat(response_format=form, max_tokens=40))
    assert json.loads(text)["city"] in {"Paris", "Rome"}


@pytest.mark.parametrize("of", [{"messages": QUESTION}, {"messages": None, "prompt": "The city is"}])
def test_a_grammar_is_honoured(backend, of):
    text, _ = answer(backend, chat(grammar='root ::= "Lyon" | "Nice"', **of))
    assert text in {"Lyon", "Nice"}


def test_tools_reach_the_server_as_they_were_given(server):
    function = {"name": "weather", "description": "Weather of a city.", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    with Relay(server.port) as (port, seen):
        backend = LlamaCppBackend(server_url=f"http://127.0.0.1:{port}")
        backend.open()
        request = chat(tools=tools, max_tokens=1)
        _, end = answer(backend, request)
        assert end.usage.input_tokens == backend.count_prompt_tokens(request)
        backend.close()
    bodies = [json.loads(line) for line in b"\n".join(seen).splitlines() if line.startswith(b"{")]
    sent = next(body for body in bodies if body.get("stream"))
    assert sent["tools"] == tools


def test_a_prompt_with_tools_is_refused_by_name(backend):
    with pytest.raises(InvalidRequestError, match="tools"):
        answer(backend, InferenceRequest(prompt="x", tools=[{"type": "function"}]))


def test_a_prompt_that_does_not_fit_is_one_error_with_both_numbers(backend):
    request = chat(messages=[{"role": "user", "content": "word " * 600}])
    with pytest.raises(ContextOverflowError) as caught:
        answer(backend, request)
    assert caught.value.context_length == 512
    assert caught.value.prompt_tokens == backend.count_prompt_tokens(request)


def test_a_cancelled_request_ends_quietly_in_the_middle_and_before_the_start(backend):
    cancel = CancelToken()
    stream = backend.stream(chat(max_tokens=256, stop=()), Placement(cancel=cancel))
    assert isinstance(next(stream), TokenDelta)
    cancel.cancel()
    assert not any(isinstance(item, StreamEnd) for item in stream)
    assert list(backend.stream(chat(), Placement(cancel=cancel))) == []


def test_facts_of_a_server_started_here_come_from_the_model_file(owned):
    info = owned.open()
    assert (info.model, info.provider) == ("SmolLM2-135M-Instruct", "llamacpp")
    assert (info.architecture, info.quantization, info.parameters) == ("llama", "Q4_1", 134_515_008)
    assert (info.context_length, info.slots) == (512, 2)
    # 30 blocks, 3 KV heads, keys and values of 64 numbers of 2 bytes each
    assert info.kv_bytes_per_token == 30 * 3 * (64 + 64) * 2
    assert (info.owned, info.in_process) == (True, False)
    assert (info.server_address, info.server_port) == ("127.0.0.1", owned.server.port)
    assert info.sha256 is None


def test_facts_of_a_server_that_already_ran_are_the_same_but_not_ours(backend, server):
    info = backend.open()
    assert backend.server is None
    assert info.owned is False
    assert (info.model, info.architecture, info.quantization) == ("SmolLM2-135M-Instruct", "llama", "Q4_1")
    assert (info.parameters, info.context_length, info.slots) == (134_515_008, 512, 2)
    assert info.server_port == server.port
    backend.close()
    assert server.running


def test_a_server_on_another_file_system_is_taken_at_its_word(server):
    # What a container's server would say: its path means nothing here.
    hidden = server.model.with_name(server.model.name.swapcase())

    def elsewhere(head: bytes) -> bytes:
        return head.replace(str(server.model).encode(), str(hidden).encode())

    with Relay(server.port, downstream=elsewhere) as (port, _seen):
        far = LlamaCppBackend(server_url=f"http://127.0.0.1:{port}")
        info = far.open()
        far.close()
    assert info.architecture is None
    assert info.kv_bytes_per_token is None
    assert (info.quantization, info.parameters, info.context_length) == ("Q4_1", 134_515_008, 512)


def test_fewer_slots_of_a_server_can_be_used_and_never_more(server):
    for asked, given in ((1, 1), (64, 2)):
        used = LlamaCppBackend(server_url=server.url, slots=asked)
        assert used.open().slots == given
        used.close()


def test_a_name_given_with_a_url_is_the_models_name(server):
    named = LlamaCppBackend("my-model", server_url=server.url)
    assert named.open().model == "my-model"
    named.close()


def test_the_digest_is_computed_on_demand(server):
    digested = LlamaCppBackend(server_url=server.url, sha256=True)
    info = digested.open()
    digested.close()
    assert info.sha256 == hashlib.sha256(server.model.read_bytes()).hexdigest()


def test_the_trace_context_travels_with_the_request(server):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Relay(server.port) as (port, seen):
        backend = LlamaCppBackend(server_url=f"http://127.0.0.1:{port}")
        backend.open()
        for request in (chat(max_tokens=1), InferenceRequest(prompt="Once", max_tokens=1)):
            answer(backend, request, Placement(traceparent=parent))
        backend.close()
    assert b"".join(seen).lower().count(f"traceparent: {parent}\r\n".encode()) == 2


def test_a_server_killed_in_the_middle_leaves_the_deltas_and_says_why(owned):
    stream = owned.stream(InferenceRequest(prompt="Once upon a time", max_tokens=400), Placement())
    before = [next(stream), next(stream)]
    os.kill(owned.server.pid, signal.SIGKILL)
    with pytest.raises(StreamInterruptedError, match="SIGKILL"):
        before.extend(stream)
    assert all(isinstance(delta, TokenDelta) and delta.text for delta in before)
    with pytest.raises(StreamInterruptedError, match="SIGKILL"):
        answer(owned, chat())


def test_a_foreign_server_that_is_gone_is_a_connection_error(owned):
    foreign = LlamaCppBackend(server_url=owned.server.url)
    foreign.open()
    owned.close()
    with pytest.raises(BackendConnectionError):
        answer(foreign, chat())
    foreign.close()


def test_a_url_where_nobody_listens_is_a_failed_start():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(BackendStartError, match=str(port)):
        LlamaCppBackend(server_url=f"http://127.0.0.1:{port}").open()


def test_a_server_that_loads_for_too_long_is_a_failed_start():
    with loading_server() as port, pytest.raises(BackendStartError, match="not ready"):
        LlamaCppBackend(server_url=f"http://127.0.0.1:{port}", startup_timeout_s=0.3).open()


def test_neither_a_model_nor_a_server_is_an_error_that_says_what_to_give():
    with pytest.raises(InvalidValueError, match="server_url"):
        LlamaCppBackend()


def test_a_model_that_is_not_there_is_an_error_and_nothing_is_left(tmp_path):
    with pytest.raises(ModelFileError):
        own(tmp_path / "gone.gguf").open()


def test_an_unopened_backend_says_so():
    with pytest.raises(BackendError, match="open"):
        answer(own(), chat())


def test_closing_ends_what_still_streams(owned):
    stream = owned.stream(InferenceRequest(prompt="Once upon a time", max_tokens=400), Placement())
    next(stream)
    owned.close()
    with pytest.raises(BackendError):
        list(stream)
    assert not owned.server.running


def test_a_server_that_hangs_is_not_waited_for_to_count_a_prompt(owned, monkeypatch):
    monkeypatch.setattr(backend_module, "_TOKENIZE_S", 0.2)
    os.kill(owned.server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BackendConnectionError, match=r"silent for 0\.2 s"):
            owned.tokenize("a")
    finally:
        os.kill(owned.server.pid, signal.SIGCONT)


def test_a_forked_child_that_leaves_a_stream_does_not_end_it_for_its_parent(server):
    with (
        InferenceEngine("llamacpp", server_url=server.url) as engine,
        engine.stream(InferenceRequest(prompt="1 2 3 4", max_tokens=24)) as stream,
    ):
        next(stream)
        pid = os.fork()
        if pid == 0:
            # The socket that the answer comes through is the child's, too.
            stream.close()
            del stream
            os._exit(0)
        os.waitpid(pid, 0)
        assert stream.result(30).output_tokens == 24
