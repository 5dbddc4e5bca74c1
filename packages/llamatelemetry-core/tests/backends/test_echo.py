from __future__ import annotations

import pytest

from llamatelemetry.backends.echo import EchoBackend, EchoScript
from llamatelemetry.backends.protocol import Backend, CancelToken, Placement, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import ManualClock
from llamatelemetry.errors import BackendResponseError, InvalidValueError, NotSupportedError
from llamatelemetry.testing.contracts import BackendContract


class TestEchoBackend(BackendContract):
    def make_backend(self) -> Backend:
        return EchoBackend()


def text_of(items: list[TokenDelta | StreamEnd]) -> str:
    return "".join(item.text for item in items if isinstance(item, TokenDelta))


def test_it_repeats_the_words_of_the_prompt() -> None:
    items = list(EchoBackend().stream(InferenceRequest(prompt="one  two\nthree"), Placement()))
    assert text_of(items) == "one two three"
    end = items[-1]
    assert isinstance(end, StreamEnd)
    assert (end.finish_reason, end.usage.input_tokens, end.usage.output_tokens) == ("stop", 3, 3)


def test_scripted_delays_pass_on_the_injected_clock() -> None:
    clock = ManualClock()
    backend = EchoBackend(EchoScript(tokens=["a", "b", "c"], prefill_s=2.0, per_token_s=0.5), clock=clock.clock)
    start = clock.now_ns()
    moments = [
        (clock.now_ns() - start) / 1e9
        for item in backend.stream(InferenceRequest(prompt="x"), Placement())
        if isinstance(item, TokenDelta)
    ]
    assert moments == pytest.approx([2.0, 2.5, 3.0])


def test_a_script_can_differ_by_request() -> None:
    backend = EchoBackend(lambda request: EchoScript(tokens=[str(request.seed)]))
    assert text_of(list(backend.stream(InferenceRequest(prompt="x", seed=4), Placement()))) == "4"


@pytest.mark.parametrize("fail_after", [0, 1, 2])
def test_a_scripted_failure_comes_after_that_many_tokens(fail_after: int) -> None:
    backend = EchoBackend(EchoScript(tokens=["a", "b"], fail_after=fail_after))
    stream = backend.stream(InferenceRequest(prompt="x"), Placement())
    assert [next(stream) for _ in range(fail_after)] == [TokenDelta("a"), TokenDelta("b")][:fail_after]
    with pytest.raises(BackendResponseError, match="scripted failure"):
        next(stream)


def test_a_cancel_cuts_a_long_delay_short() -> None:
    clock = ManualClock()
    cancel = CancelToken()
    backend = EchoBackend(EchoScript(tokens=["a", "b"], per_token_s=3600), clock=clock.clock)
    stream = backend.stream(InferenceRequest(prompt="x"), Placement(cancel=cancel))
    next(stream)
    cancel.cancel()
    before = clock.now_ns()
    assert list(stream) == []
    assert clock.now_ns() == before


def test_no_slots_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="slots=0"):
        EchoBackend(slots=0)


def test_logprobs_are_refused_because_there_is_no_model() -> None:
    with pytest.raises(NotSupportedError, match="logprobs"):
        list(EchoBackend().stream(InferenceRequest(prompt="a", logprobs=1), Placement()))
