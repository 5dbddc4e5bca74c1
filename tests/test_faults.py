"""What goes wrong in the middle, from the engine down to a real server process."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

from llamatelemetry import InferenceEngine, InferenceRequest, SamplingParams
from llamatelemetry.errors import BackendError, BackendStartError, ModelFileError
from llamatelemetry.llama import LlamaClient, LlamaCppBackend
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.testing.semconv import assert_valid_spans

LONG = InferenceRequest(
    messages=[{"role": "user", "content": "Count from one to one thousand in words."}],
    max_tokens=400,
    sampling=SamplingParams(temperature=0),
)


SHORT = InferenceRequest(prompt="The sky is", max_tokens=4, sampling=SamplingParams(temperature=0))


def own_backend() -> LlamaCppBackend:
    return LlamaCppBackend(demo_model(), slots=2, context_length=512, threads=1)


def busy_slots(server: LlamaServer) -> int:
    client = LlamaClient(server.url)
    try:
        return sum(slot.processing for slot in client.slots())
    finally:
        client.close()


def test_a_server_killed_in_the_middle_fails_what_ran_with_one_typed_error_and_is_started_anew(telemetry) -> None:
    telemetry.start()
    before = set(psutil.Process().children(recursive=True))
    backend = own_backend()
    with InferenceEngine(backend) as engine:
        stream = engine.stream(LONG)
        first = next(stream)
        assert backend.server is not None
        assert backend.server.pid is not None
        os.kill(backend.server.pid, signal.SIGKILL)
        received = [first.text]
        with pytest.raises(BackendError, match=r"the llama\.cpp server ended") as caught:
            received.extend(delta.text for delta in stream)
        assert caught.value.partial.text == "".join(received)
        assert engine.generate(SHORT).output_tokens == 4
    assert set(psutil.Process().children(recursive=True)) <= before
    spans = telemetry.spans()
    failed = [span for span in spans if span.name.startswith(("chat ", "text_completion "))]
    assert [span.failed for span in failed] == [True, False]
    assert failed[0].attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert failed[0].attributes["gen_ai.usage.output_tokens"] == len(received)
    assert_valid_spans(spans, ("gen_ai", "llm"))


def test_an_abandoned_stream_frees_its_slot_and_closes_its_span_once(server: LlamaServer, telemetry) -> None:
    telemetry.start()
    with InferenceEngine("llamacpp", server_url=server.url) as engine:
        stream = engine.stream(LONG)
        next(stream)
        assert busy_slots(server) == 1
        stream.close()
        limit = time.monotonic() + 10
        while busy_slots(server) and time.monotonic() < limit:
            time.sleep(0.05)
        assert busy_slots(server) == 0
    [span] = [span for span in telemetry.spans() if span.name.startswith("chat ")]
    assert span.attributes["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert not span.failed


def test_a_collector_that_is_not_there_changes_no_answer(server: LlamaServer, telemetry) -> None:
    telemetry.start(otlp_endpoint="http://127.0.0.1:1", shutdown_timeout_s=0.5)
    with InferenceEngine("llamacpp", server_url=server.url) as engine:
        result = engine.generate(SHORT)
    assert result.output_tokens == 4
    assert result.trace_id is not None


@pytest.mark.parametrize("what", ["missing", "empty", "text", "truncated"])
def test_a_file_that_is_no_model_is_refused_before_a_process_is_started(tmp_path, what: str) -> None:
    path = tmp_path / "model.gguf"
    if what == "empty":
        path.touch()
    elif what == "text":
        path.write_text("<html>not found</html>")
    elif what == "truncated":
        with demo_model().open("rb") as model:
            path.write_bytes(model.read(100_000))
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ModelFileError, match=r"model\.gguf"):
        InferenceEngine("llamacpp", model=path)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_no_server_at_the_url_is_a_start_error_that_says_where(unused_port: int) -> None:
    with pytest.raises(BackendStartError, match=rf"127\.0\.0\.1:{unused_port}"):
        InferenceEngine("llamacpp", server_url=f"http://127.0.0.1:{unused_port}")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # forking with threads is what is tested
def test_a_forked_child_does_not_take_the_parents_server_or_spans_with_it(telemetry) -> None:
    telemetry.start()
    with InferenceEngine(own_backend()) as engine:
        engine.generate(SHORT)
        pid = os.fork()
        if pid == 0:
            engine.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert engine.generate(SHORT).output_tokens == 4
    spans = [span for span in telemetry.spans() if span.name.startswith("text_completion")]
    assert len(spans) == len({span.span_id for span in spans}) == 2


def test_a_closed_engine_leaves_no_thread_and_no_process(telemetry) -> None:
    telemetry.start()
    threads, processes = set(threading.enumerate()), set(psutil.Process().children(recursive=True))
    with InferenceEngine(own_backend()) as engine:
        futures = [engine.submit(SHORT) for _ in range(4)]
        assert [future.result(60).output_tokens for future in futures] == [4] * 4
    left = {thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith("llamatelemetry-")}
    slots = [thread for thread in threading.enumerate() if thread.name.startswith("llamatelemetry-slot")]
    assert left == set()
    assert slots == []
    assert set(psutil.Process().children(recursive=True)) <= processes
