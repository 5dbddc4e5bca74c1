"""The draw, on tensors, against what transformers' own processors leave of the same logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.transformers.sampling import Sampling, draw, penalise, sampling_of

SIZE = 40


def logits_of(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.randn((rows, SIZE), generator=torch.Generator().manual_seed(seed)) * 3


def theirs(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities after transformers' warpers."""
    warpers = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    ids = torch.zeros((1, 1), dtype=torch.long)
    return LogitsProcessorList(warpers)(ids, logits.clone()).softmax(-1)[0]


def ours(logits: torch.Tensor, sampling: Sampling, draws: int) -> torch.Tensor:
    """How often each token was drawn."""
    rows = logits.expand(draws, -1)
    tokens = draw(rows, [sampling] * draws, range(draws))
    return torch.bincount(tokens, minlength=SIZE)


wishes = st.builds(
    Sampling,
    temperature=st.floats(0.1, 2.0),
    top_k=st.integers(0, SIZE + 5),
    top_p=st.floats(0.0, 1.0),
    min_p=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**64 - 1),
)


@given(wishes, st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_what_is_drawn_are_the_candidates_that_transformers_would_keep_as_often_as_it_would(sampling, seed):
    logits = logits_of(seed)
    expected = theirs(logits, sampling)
    counts = ours(logits, sampling, 4000)
    assert not counts[expected == 0].any()
    # Four and a half standard deviations: once in 150,000 of these.
    spread = (4000 * expected * (1 - expected)).sqrt()
    assert ((counts - 4000 * expected).abs() <= 4.5 * spread + 5).all()


@given(st.lists(wishes, min_size=2, max_size=5), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_a_row_is_drawn_the_same_whoever_is_beside_it(samplings, seed):
    logits = logits_of(seed, len(samplings))
    positions = range(len(samplings))
    together = draw(logits, samplings, positions).tolist()
    alone = [draw(logits[row : row + 1], [samplings[row]], [row]).item() for row in positions]
    assert together == alone


@pytest.mark.parametrize("neighbour", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}], ids=str)
@pytest.mark.parametrize("wishes_of_one", [{}, {"top_p": 0.9}, {"top_k": 5}], ids=str)
def test_candidates_that_are_left_out_for_one_change_nothing_for_another(wishes_of_one, neighbour):
    # As many are equally likely as in 16 bits, and which of them comes first must not hang on who else is there.
    logits = logits_of(3, 2).round()
    one, other = Sampling(temperature=1.0, seed=3, **wishes_of_one), Sampling(temperature=1.0, seed=4, **neighbour)
    alone = [draw(logits[:1], [one], [position]).item() for position in range(50)]
    assert [draw(logits, [one, other], [position, position])[0].item() for position in range(50)] == alone


@pytest.mark.parametrize("temperature", [1e-7, 1e-40, 5e-324])
def test_a_temperature_next_to_none_takes_the_likeliest_token(temperature):
    asked = InferenceRequest(prompt="x", sampling=SamplingParams(temperature=temperature, top_p=0.9), seed=1)
    assert sampling_of(asked, GenerationConfig()).temperature == 0


def test_the_last_candidate_is_in_reach_and_nothing_behind_it(monkeypatch):
    monkeypatch.setattr("llamatelemetry.transformers.sampling.uniform", lambda _seed, _at: 1 - 2.0**-53)
    logits = torch.full((1, SIZE), float("-inf"))
    logits[0, 3] = logits[0, 7] = 0.0
    for sampling in (
        Sampling(temperature=1.0),
        Sampling(temperature=1.0, top_k=5),
        Sampling(temperature=1.0, top_p=0.9),
    ):
        assert draw(logits, [sampling], [0]).item() == 7


def test_the_callers_logits_stay_as_they_are():
    logits = logits_of(1)
    before = logits.clone()
    draw(logits, [Sampling(temperature=0.5, top_k=3, top_p=0.5, min_p=0.1)], [0])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
def test_the_repeat_penalty_is_that_of_transformers(penalty):
    prompt, answer = [1, 2, 2, 3], [5, 1]
    logits = logits_of(2)[0]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + answer]), logits.clone()[None])[0]
    penalise(logits, prompt, answer, Sampling(repeat_penalty=penalty))
    assert torch.allclose(logits, expected)


def test_presence_is_taken_off_once_and_frequency_each_time_of_what_the_answer_has():
    before = logits_of(3)[0]
    logits = before.clone()
    penalise(logits, [1, 9], [5, 5, 1], Sampling(presence_penalty=0.5, frequency_penalty=0.25))
    off = before - logits
    assert off[5].item() == pytest.approx(1.0)
    assert off[1].item() == pytest.approx(0.75)
    assert off[9].item() == 0
    untouched = before.clone()
    penalise(untouched, [1, 9], [], Sampling(presence_penalty=0.5))
    assert torch.equal(untouched, before)
