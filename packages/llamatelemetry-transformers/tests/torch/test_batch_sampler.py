"""The object that draws for a whole batch, against states as transformers keeps them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from llamatelemetry.transformers.batch_sampler import BatchSampler
from llamatelemetry.transformers.sampling import Sampling, draw, penalise

SIZE = 50

wishes = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.3]),
    top_k=st.integers(0, SIZE),
    top_p=st.floats(0.1, 1.0),
    repeat_penalty=st.sampled_from([1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**64 - 1),
)
words = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=8)
requests = st.lists(st.tuples(wishes, words, words, st.booleans()), min_size=1, max_size=6)


def state_of(number: int, sampling: Sampling, prompt: list[int], answer: list[int]) -> RequestState:
    state = RequestState(
        f"request-{number}", list(prompt), logit_processor_kwargs={"sampling": sampling}, max_new_tokens=100
    )
    state.generated_tokens = list(answer)
    state.position_offset = len(prompt) + len(answer)
    return state


def logits_of(rows: int) -> torch.Tensor:
    return torch.randn((rows, SIZE), generator=torch.Generator().manual_seed(rows)) * 3


def taken(sampler: BatchSampler, states: list[RequestState], drawing: list[bool], logits: torch.Tensor) -> list[int]:
    futures = [FutureRequestState(state, draws, {}, 1) for state, draws in zip(states, drawing, strict=True)]
    storage = torch.zeros(0, 3)
    assert sampler.prepare_tensor_args(futures, storage) is storage
    scores = sampler(torch.zeros(len(logits), dtype=torch.long), logits.clone(), storage)
    return scores.argmax(-1).tolist()


def alone(logits: torch.Tensor, sampling: Sampling, prompt: list[int], answer: list[int]) -> int:
    row = logits.clone()
    penalise(row, prompt, answer, sampling)
    if not sampling.temperature:
        return int(row.argmax())
    return int(draw(row[None], [sampling], [len(prompt) + len(answer)]))


@given(requests)
@settings(deadline=None, max_examples=60)
def test_each_request_that_draws_gets_the_token_that_it_would_draw_alone(asked):
    """Their rows are the first ones; those of requests whose prompt is not complete have none."""
    states = [state_of(number, *request[:3]) for number, request in enumerate(asked)]
    drawing = [request[3] for request in asked]
    logits = logits_of(len(asked))
    tokens = taken(BatchSampler(), states, drawing, logits)
    drawn = [request for request in asked if request[3]]
    expected = [alone(logits[row], *request[:3]) for row, request in enumerate(drawn)]
    assert tokens[: len(drawn)] == expected


@given(wishes, words, words)
@settings(deadline=None, max_examples=30)
def test_a_request_that_begins_anew_draws_what_it_would_have_drawn(sampling, prompt, answer):
    logits = logits_of(1)
    state = state_of(0, sampling, prompt, answer)
    before = taken(BatchSampler(), [state], [True], logits)
    for _ in range(2):
        state = state.create_equivalent_initial_request()
        state.position_offset = len(state.initial_tokens)
        assert taken(BatchSampler(), [state], [True], logits) == before


def test_logits_are_left_alone_where_nobody_draws_or_penalises():
    logits = logits_of(3)
    sampler = BatchSampler()
    states = [state_of(number, Sampling(), [1], []) for number in range(3)]
    sampler.prepare_tensor_args([FutureRequestState(state, True, {}, 1) for state in states], None)
    scores = logits.clone()
    assert sampler(None, scores, None) is scores
    assert torch.equal(scores, logits)


def test_it_has_what_transformers_asks_of_it():
    sampler = BatchSampler()
    assert sampler.do_processing
    assert sampler.tensors_required == 0
    sampler.check_kwargs({"sampling": Sampling(), "anything": 1})
    sampler.fill_defaults(torch.zeros(0, 1))
