from __future__ import annotations

import pytest

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import (
    BackendConnectionError,
    BackendResponseError,
    ConfigurationError,
    RequestCancelledError,
    ServerLoadingError,
    StreamInterruptedError,
)
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.retry import RetryBudget, RetryPolicy

SOON = RetryPolicy(first_wait_s=0.01, longest_wait_s=0.02)
REQUEST = InferenceRequest(prompt="x")


def refused() -> BackendConnectionError:
    return BackendConnectionError("127.0.0.1:1", "refused")


def test_what_fails_in_passing_is_tried_again_and_each_try_is_noted(failing, sink) -> None:
    backend = failing(refused(), ServerLoadingError("loading", status=503))
    with InferenceEngine(backend, retry=SOON) as engine:
        assert engine.generate(REQUEST).text == "ab"
        assert engine.stats().retried == 2
    assert backend.tries == 3
    [record] = sink.records
    assert [attempt.error_type for attempt in record.attempts] == ["BackendConnectionError", "ServerLoadingError"]
    assert record.error is None
    moments = [attempt.failed_ns for attempt in record.attempts]
    assert record.opening.submitted_ns < moments[0] < moments[1] <= record.dispatched_ns <= record.token_ns[0]


def test_the_last_error_is_the_one_that_is_raised(failing, sink) -> None:
    backend = failing(refused(), refused(), StreamInterruptedError("gone"), refused())
    with InferenceEngine(backend, retry=SOON) as engine, pytest.raises(StreamInterruptedError, match="gone"):
        engine.generate(REQUEST)
    assert backend.tries == 3
    assert len(sink.records[0].attempts) == 2


def test_nothing_is_tried_again_once_a_token_has_come(failing, sink) -> None:
    backend = failing(refused(), after_tokens=1)
    with InferenceEngine(backend, retry=SOON) as engine:
        with pytest.raises(BackendConnectionError) as caught:
            engine.generate(REQUEST)
        assert caught.value.partial.text == "x"
    assert backend.tries == 1


def test_a_refusal_is_an_answer_and_not_tried_again(failing) -> None:
    backend = failing(BackendResponseError("no", status=400))
    with InferenceEngine(backend, retry=SOON) as engine, pytest.raises(BackendResponseError):
        engine.generate(REQUEST)
    assert backend.tries == 1


def test_an_outage_is_not_made_worse_than_the_budget_allows(failing) -> None:
    backend = failing(*(refused() for _ in range(1000)))
    policy = RetryPolicy(first_wait_s=0.001, longest_wait_s=0.002, budget=0.1, burst=5)
    with InferenceEngine(backend, retry=policy) as engine:
        for _ in range(50):
            with pytest.raises(BackendConnectionError):
                engine.generate(REQUEST)
    assert 50 < backend.tries <= 50 + 5 + 0.1 * 50


def test_a_cancel_ends_the_wait_for_the_next_try(failing, eventually) -> None:
    backend = failing(*(refused() for _ in range(10)))
    patient = RetryPolicy(first_wait_s=3000, longest_wait_s=3000)
    with InferenceEngine(backend, retry=patient) as engine:
        stream = engine.stream(REQUEST)
        assert eventually(lambda: engine.stats().retried == 1)
        stream.close()
        with pytest.raises(RequestCancelledError):
            stream.result(timeout_s=10)
    assert backend.tries == 1


def test_a_budget_fills_up_to_its_burst_and_no_further() -> None:
    budget = RetryBudget(RetryPolicy(budget=0.5, burst=2))
    for _ in range(100):
        budget.request_made()
    assert [budget.take() for _ in range(3)] == [True, True, False]
    budget.request_made()
    assert not budget.take()
    budget.request_made()
    assert budget.take()


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"budget": -1}, {"burst": -1}, {"first_wait_s": 0}, {"first_wait_s": 5}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong) -> None:
    with pytest.raises(ConfigurationError, match="retry"):
        RetryPolicy(**wrong)
