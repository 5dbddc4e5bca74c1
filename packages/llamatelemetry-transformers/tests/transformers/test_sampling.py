from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import NotSupportedError
from llamatelemetry.transformers.sampling import Sampling, sampling_of, uniform

PLAIN = SimpleNamespace(do_sample=False, temperature=0.6, top_k=50, top_p=0.9, min_p=None, repetition_penalty=None)
SAMPLES = SimpleNamespace(do_sample=True, temperature=0.6, top_k=50, top_p=0.9, min_p=None, repetition_penalty=1.1)
INTEGERS = st.integers(0, 2**64 - 1)


def asked(defaults=PLAIN, seed: int | None = 1, **sampling) -> Sampling:
    return sampling_of(InferenceRequest(prompt="x", seed=seed, sampling=SamplingParams(**sampling)), defaults)


def test_a_model_that_does_not_sample_takes_the_likeliest_token():
    assert asked() == Sampling(seed=1)


def test_a_model_that_samples_does_as_its_makers_recommend():
    assert asked(SAMPLES) == Sampling(temperature=0.6, top_k=50, top_p=0.9, repeat_penalty=1.1, seed=1)


def test_what_the_request_says_counts():
    assert asked(SAMPLES, temperature=0.0, top_k=0, repeat_penalty=1.0) == Sampling(top_p=0.9, seed=1)
    wishes = {"temperature": 0.7, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "presence_penalty": 1.0}
    assert asked(PLAIN, **wishes, frequency_penalty=-1.0) == Sampling(**wishes, frequency_penalty=-1.0, seed=1)


def test_candidates_to_keep_are_asked_for_by_who_wants_a_draw():
    for wish in ({"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.1}):
        assert asked(PLAIN, **wish).temperature == 1.0


def test_a_model_without_a_generation_configuration_is_greedy():
    assert asked(None) == Sampling(seed=1)


def test_without_a_seed_each_request_has_one_of_its_own():
    assert asked(seed=None).seed != asked(seed=None).seed


def test_a_seed_may_be_any_integer():
    assert asked(seed=-1).seed == 2**64 - 1


def test_a_penalty_that_divides_by_nothing_is_refused_by_name():
    with pytest.raises(NotSupportedError, match=r"sampling\.repeat_penalty"):
        asked(repeat_penalty=0.0)


@given(INTEGERS, st.integers(0, 2**31))
def test_a_draw_follows_from_seed_and_position(seed, position):
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)


def test_draws_are_spread_evenly_over_positions_and_over_seeds():
    for numbers in (
        [uniform(7, position) for position in range(10_000)],
        [uniform(seed, 7) for seed in range(10_000)],
        [uniform(number, number) for number in range(10_000)],
    ):
        tenths = [0] * 10
        for number in numbers:
            tenths[int(number * 10)] += 1
        # The 99.9th percentile of chi squared with nine degrees of freedom is 27.9.
        assert sum((count - 1000) ** 2 / 1000 for count in tenths) < 27.9
        assert len(set(numbers)) == 10_000
