"""Which slot runs a request, and how many tokens slots hold: each alone, or all together."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from llamatelemetry.backends.protocol import Placement, StreamEnd
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import BackendResponseError, ContextOverflowError
from llamatelemetry.llama.backend import LlamaCppBackend
from llamatelemetry.llama.model_files import demo_model

GREEDY = SamplingParams(temperature=0.0)


def numbers(first: int, count: int) -> str:
    return " ".join(str(number) for number in range(first, first + count))


def request(kind: str, text: str, max_tokens: int = 2, **options) -> InferenceRequest:
    asked = {"messages": [{"role": "user", "content": text}]} if kind == "chat" else {"prompt": text}
    return InferenceRequest(**asked, max_tokens=max_tokens, sampling=GREEDY, **options)


def end_of(backend: LlamaCppBackend, asked: InferenceRequest, slot: int | None) -> StreamEnd:
    *_, end = backend.stream(asked, Placement(slot_id=slot))
    assert isinstance(end, StreamEnd)
    return end


@pytest.fixture
def backend(server) -> Iterator[LlamaCppBackend]:
    opened = LlamaCppBackend(server_url=server.url)
    opened.open()
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_a_request_runs_on_the_slot_it_is_given_and_finds_there_what_ran_before(backend, kind):
    asked = request(kind, f"Continue, {kind}: " + numbers(100, 40))
    for slot in (0, 1):
        first = end_of(backend, asked, slot)
        assert first.slot_id == slot
        assert first.usage.cached_tokens < 40, "the other slot's cache is not this one's"
        again = end_of(backend, asked, slot)
        assert again.slot_id == slot
        assert again.usage.cached_tokens == again.usage.input_tokens - 1
        assert again.timings.prefill_tokens == 1


def test_a_longer_prompt_computes_only_what_is_new(backend):
    start = numbers(300, 40)
    before = end_of(backend, request("completion", start, max_tokens=1), 1)
    after = end_of(backend, request("completion", start + " and then some", max_tokens=1), 1)
    assert after.usage.cached_tokens >= before.usage.input_tokens - 1
    assert after.timings.prefill_tokens <= 5


def test_a_slot_of_the_servers_choice_is_told_where_the_server_tells_it(backend):
    assert end_of(backend, request("completion", "Once"), None).slot_id in {0, 1}
    assert end_of(backend, request("chat", "Once"), None).slot_id is None


def test_a_slot_that_does_not_exist_is_not_claimed(backend):
    assert end_of(backend, request("completion", "Once"), 9).slot_id in {0, 1}
    assert end_of(backend, request("chat", "Once"), 9).slot_id is None


TALKATIVE = """
import json, signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.verbosity = 512, 2, 10
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)
print("\\nlistens " + server.listening_address, flush=True)
signal.pause()
"""


def test_a_server_that_logs_everything_tells_the_slot_of_a_chat(tmp_path):
    command = [sys.executable, "-c", TALKATIVE, str(demo_model())]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = next(line.split()[1] for line in process.stdout if line.startswith("listens "))
            talkative = LlamaCppBackend(server_url=url)
            talkative.open()
            assert end_of(talkative, request("chat", "Once"), None).slot_id in {0, 1}
            assert end_of(talkative, request("chat", "Once"), 1).slot_id == 1
            talkative.close()
        finally:
            process.kill()


def own(**options) -> LlamaCppBackend:
    return LlamaCppBackend(demo_model(), slots=2, context_length=512, threads=1, **options)


@pytest.fixture
def shared() -> Iterator[LlamaCppBackend]:
    """A backend whose two slots share 1,024 tokens."""
    opened = own(kv_unified=True)
    opened.open()
    yield opened
    opened.close()


def test_a_request_larger_than_a_slots_share_runs_if_the_slots_share(shared, backend):
    info = shared.open()
    assert (info.kv_tokens, info.context_length, info.slots) == (1024, 1024, 2)
    asked = request("completion", numbers(1000, 140))
    assert 512 < end_of(shared, asked, 0).usage.input_tokens < 1024
    assert (backend.open().kv_tokens, backend.open().context_length) == (None, 512)
    with pytest.raises(ContextOverflowError):
        end_of(backend, asked, 0)


def test_two_requests_that_fill_the_shared_cache_fail_typed_and_the_next_one_runs(shared):
    """Why the cache's size is declared: the server takes both and gives up both."""
    outcomes: list[object] = []

    def run(slot: int) -> None:
        prompt = numbers(1000 * slot + 1000, 120)
        try:
            outcomes.append(end_of(shared, request("completion", prompt, 400, grammar='root ::= "a" root'), slot))
        except BackendResponseError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert any("Context size" in str(outcome) for outcome in outcomes)
    assert end_of(shared, request("completion", "Once"), 0).usage.output_tokens == 2


def test_what_a_running_server_shares_is_taken_from_who_started_it(shared):
    for said, found in ((None, None), (True, 1024)):
        other = LlamaCppBackend(server_url=shared.server.url, kv_unified=said)
        assert other.open().kv_tokens == found
        other.close()


def test_slots_share_nothing_unless_asked_to():
    for said in (None, False):
        separate = own(kv_unified=said)
        info = separate.open()
        separate.close()
        assert (info.kv_tokens, info.context_length) == (None, 512)
