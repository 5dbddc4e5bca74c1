"""A GPU that serves with continuous batching, as a model: what it computes when, and what that takes.

It is a model with numbers in the range of a small inference GPU, and no measurement of one. It is here
because a fair division needs to know what the device would have drawn without some of the requests,
which no meter tells.

A step computes one token for each request that decodes and fills up with prompt tokens, in order of
arrival. Its energy above idle is ``step_j``, for reading the model, and something for each token; no
more than the power limit lets through in its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from energy_reference.shapley import shapley

CHUNK_TOKENS = 512
PROMPT, ANSWER = (5.7, 1.0), (4.6, 0.8)
"""Logarithm's mean and deviation: medians of 300 and 100 tokens."""
LONGEST_PROMPT, LONGEST_ANSWER = 4_000, 600
ARRIVALS_PER_S = 2.0
EVERYBODY = -1


class Request(NamedTuple):
    """One request."""

    arrival_s: float
    prompt_tokens: int
    answer_tokens: int


class Step(NamedTuple):
    """One step of the device."""

    start_s: float
    end_s: float
    decoding: tuple[int, ...]
    prefilling: tuple[tuple[int, int], ...]
    """Requests, and how many tokens of their prompts."""
    energy_j: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU, in seconds and in joules above idle."""

    step_s: float = 0.030
    token_s: float = 0.0006
    step_j: float
    prefill_token_j: float
    decode_token_j: float
    limit_w: float = float("inf")

    def duration_s(self, prefill: int, decode: int) -> float:
        """What a step takes."""
        return self.step_s + self.token_s * (prefill + decode)

    def energy_j(self, prefill: int, decode: int) -> float:
        """What a step draws above idle."""
        if not prefill + decode:
            return 0.0
        wanted = self.step_j + self.prefill_token_j * prefill + self.decode_token_j * decode
        return min(wanted, self.limit_w * self.duration_s(prefill, decode))


def workload(dice: Random, size: int) -> list[Request]:
    """Requests that arrive at random (Poisson), with lognormal lengths."""
    requests, now = [], 0.0
    for _ in range(size):
        prompt = min(LONGEST_PROMPT, 1 + int(dice.lognormvariate(*PROMPT)))
        answer = min(LONGEST_ANSWER, 1 + int(dice.lognormvariate(*ANSWER)))
        requests.append(Request(now, prompt, answer))
        now += dice.expovariate(ARRIVALS_PER_S)
    return requests


def run(device: Device, requests: Sequence[Request], coalition: int = EVERYBODY) -> list[Step]:
    """What the device does for those requests that are of the coalition; each begins as soon as it arrives."""
    waiting = [i for i in range(len(requests)) if coalition >> i & 1]
    prompts = [request.prompt_tokens for request in requests]
    answers = [request.answer_tokens for request in requests]
    running: list[int] = []
    steps: list[Step] = []
    now = 0.0
    while running or waiting:
        if not running:
            now = max(now, requests[waiting[0]].arrival_s)
        while waiting and requests[waiting[0]].arrival_s <= now:
            running.append(waiting.pop(0))
        decoding = tuple(i for i in running if not prompts[i])
        room = CHUNK_TOKENS - len(decoding)
        prefilling = []
        for i in running:
            if prompts[i] and room:
                prefilling.append((i, min(room, prompts[i])))
                room -= prefilling[-1][1]
        work = sum(tokens for _, tokens in prefilling), len(decoding)
        end = now + device.duration_s(*work)
        steps.append(Step(now, end, decoding, tuple(prefilling), device.energy_j(*work)))
        for i in decoding:
            answers[i] -= 1
        for i, tokens in prefilling:
            prompts[i] -= tokens
            answers[i] -= not prompts[i]  # The last of the prompt gives the first token of the answer.
        running = [i for i in running if prompts[i] or answers[i] > 0]
        now = end
    return steps


def token_times(requests: Sequence[Request], steps: Sequence[Step]) -> list[list[float]]:
    """When each request got its tokens."""
    times: list[list[float]] = [[] for _ in requests]
    left = [request.prompt_tokens for request in requests]
    for step in steps:
        for i, tokens in step.prefilling:
            left[i] -= tokens
            if not left[i]:
                times[i].append(step.end_s)
        for i in step.decoding:
            times[i].append(step.end_s)
    return times


def replayed(device: Device, requests: Sequence[Request]) -> list[float]:
    """Shapley values where a coalition has the device for itself: it is run again with only those requests."""

    def value(coalition: int) -> float:
        return sum(step.energy_j for step in run(device, requests, coalition))

    return shapley(len(requests), value)


def in_place(device: Device, requests: Sequence[Request]) -> list[float]:
    """Shapley values where the others' work is taken out of each step, and the steps stay where they were."""

    @cache
    def shares(decoding: int, prefilling: tuple[int, ...]) -> list[float]:
        def value(coalition: int) -> float:
            prefill = sum(tokens for i, tokens in enumerate(prefilling) if coalition >> i & 1)
            return device.energy_j(prefill, (coalition >> len(prefilling)).bit_count())

        return shapley(len(prefilling) + decoding, value)

    total = [0.0] * len(requests)
    for step in run(device, requests):
        order = sorted(step.prefilling, key=lambda pair: pair[1])
        values = shares(len(step.decoding), tuple(tokens for _, tokens in order))
        for i, share in zip([*(i for i, _ in order), *step.decoding], values, strict=True):
            total[i] += share
    return total
