"""Embeddings through the backend, on real servers."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from llamatelemetry.backends.protocol import CancelToken, Placement, StreamEnd
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import (
    BackendConnectionError,
    BackendProtocolError,
    BackendResponseError,
    ContextOverflowError,
    NotSupportedError,
    StreamInterruptedError,
)
from llamatelemetry.llama.backend import LlamaCppBackend
from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.testing import watching_deferrals
from llamatelemetry.llama.transport import Wire
from llamatelemetry.testing.contracts import BackendContract

LONG = "The llama eats grass on a hill in the rain. " * 30


def own() -> LlamaCppBackend:
    return LlamaCppBackend(demo_model(), slots=2, context_length=512, threads=1, embeddings=True)


class TestEmbeddingServer(BackendContract):
    def make_backend(self) -> LlamaCppBackend:
        return own()


@pytest.fixture(scope="module")
def shared() -> Iterator[LlamaCppBackend]:
    """A backend with a server that makes embeddings and answers too."""
    backend = own()
    backend.open()
    yield backend
    backend.close()


@pytest.fixture(autouse=True, scope="module")
def _started_before_anything_is_counted(shared) -> None:
    """The server belongs to the module, not to the test that first asks for it."""


def embed(backend: LlamaCppBackend, *texts: str, **options) -> StreamEnd:
    (end,) = backend.stream(InferenceRequest(input=texts, **options), Placement())
    assert isinstance(end, StreamEnd)
    return end


def cosine(one, other) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def test_each_text_gets_its_own_vector_of_length_one(shared):
    request = InferenceRequest(input=["one", "two words", "one"])
    (end,) = shared.stream(request, Placement())
    first, second, third = end.embeddings
    assert len(first) == len(second) == 576
    assert all(math.isclose(cosine(vector, vector), 1, rel_tol=1e-6) for vector in end.embeddings)
    assert cosine(first, third) > 0.999
    assert cosine(first, second) < 0.999
    assert end.finish_reason == "stop"
    assert end.usage.input_tokens == shared.count_prompt_tokens(request) == 4
    assert end.usage.output_tokens is None
    assert end.response_model == "SmolLM2-135M-Instruct"


def test_a_text_of_several_batches_is_embedded_whole(shared):
    end = embed(shared, LONG, LONG + "And the llama sleeps.")
    assert 600 < end.usage.input_tokens < 1024
    assert cosine(*end.embeddings) < 0.999


def test_a_text_longer_than_a_slot_is_one_error_with_both_numbers(shared):
    with pytest.raises(ContextOverflowError) as caught:
        embed(shared, LONG * 3)
    assert caught.value.context_length == 512
    assert caught.value.prompt_tokens == len(shared.tokenize(LONG * 3))


def test_what_the_server_refuses_is_a_typed_error(shared):
    with pytest.raises(BackendResponseError, match="empty"):
        embed(shared, "")


def test_answers_are_the_same_beside_embeddings(shared, server):
    request = InferenceRequest(
        messages=[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        max_tokens=16,
        sampling=SamplingParams(temperature=0),
    )
    plain = LlamaCppBackend(server_url=server.url)
    plain.open()
    answers = []
    for backend in (plain, shared):
        embedding = None if backend is plain else threading.Thread(target=embed, args=(shared, LONG))
        if embedding:
            embedding.start()
        *deltas, _ = backend.stream(request, Placement(slot_id=0))
        if embedding:
            embedding.join()
        answers.append("".join(delta.text for delta in deltas))
    plain.close()
    assert "Paris" in answers[0]
    assert answers[0] == answers[1]


def test_many_texts_are_no_more_than_one_request_to_the_server(shared):
    with watching_deferrals(shared.server.url) as watch:
        end = embed(shared, *[f"text number {number}" for number in range(12)])
    assert len(end.embeddings) == 12
    assert watch.most == 0


def test_a_running_server_that_makes_embeddings_is_found_out(shared):
    other = LlamaCppBackend(server_url=shared.server.url)
    assert other.open().embeddings
    assert len(embed(other, "a", model="any").embeddings) == 1
    other.close()


def test_a_server_of_ours_without_embeddings_says_how_to_get_them(server):
    plain = LlamaCppBackend(demo_model(), slots=1, context_length=256, threads=1)
    try:
        assert not plain.open().embeddings
        with pytest.raises(NotSupportedError, match="embeddings=True"):
            embed(plain, "a")
    finally:
        plain.close()


def test_a_running_server_without_embeddings_says_how_to_get_them(server):
    plain = LlamaCppBackend(server_url=server.url)
    plain.open()
    with pytest.raises(NotSupportedError, match="--embeddings"):
        embed(plain, "a")
    plain.close()


def test_a_cancelled_request_ends_quietly_in_the_middle_and_before_the_start(shared):
    cancel, items = CancelToken(), []

    def run() -> None:
        items.extend(shared.stream(InferenceRequest(input=[LONG] * 100), Placement(cancel=cancel)))

    thread = threading.Thread(target=run)
    thread.start()
    with LlamaClient(shared.server.url) as client:
        while not any(slot.processing for slot in client.slots()):
            pass
    cancel.cancel()
    # All of it would take minutes.
    thread.join(20)
    assert not thread.is_alive()
    assert items == []
    assert list(shared.stream(InferenceRequest(input=["a"]), Placement(cancel=cancel))) == []
    assert len(embed(shared, "a").embeddings) == 1


def test_a_server_that_is_killed_says_why_it_ended():
    backend = own()
    try:
        backend.open()
        pid = backend.server.pid
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(StreamInterruptedError, match="SIGKILL"):
            embed(backend, *[LONG] * 100)
    finally:
        backend.close()


def reply(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % len(body) + body


def test_fewer_embeddings_than_texts_are_refused(answering):
    one = b'{"data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":1}}'
    with LlamaClient(answering(reply(one))) as client:
        assert client.embeddings(["a"]).vectors == ((1.0,),)
        with pytest.raises(BackendProtocolError, match="1 embeddings of 2 texts"):
            client.embeddings(["a", "b"])


def test_a_wire_that_was_cut_ends_the_call_and_no_other(shared):
    wire = Wire()
    wire.cut()
    with LlamaClient(shared.server.url) as client:
        with pytest.raises(BackendConnectionError):
            client.embeddings([LONG], wire=wire)
        assert client.embeddings(["a"]).input_tokens == 1


def test_embeddings_of_a_server_of_another_kind_are_not_promised(answering):
    for status in (b"404 Not Found", b"501 Not Implemented", b"401 Unauthorized"):
        url = answering(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        with LlamaClient(url) as client:
            assert not client.offers_embeddings()
