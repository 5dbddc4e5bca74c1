"""A load: which prompts, how many at once, how often; and sending it through an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from typing import Final

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.inference.engine import InferenceEngine
from llamatelemetry.inference.job import InferenceFuture
from llamatelemetry.inference.result import InferenceResult

__all__ = ["DEFAULT_PROMPTS", "Load", "Sent", "send"]

DEFAULT_PROMPTS: Final = (
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "Explain to a child why the sky is blue in the day and red in the evening.",
    "List five things to check before a long bicycle tour, each with a reason.",
    "A train leaves at nine and travels eighty kilometres an hour for two and a half hours. When does it arrive?",
    "Translate into plain words what a computer does when it opens a file.",
    "Give a recipe for a soup of carrots and lentils for four people, with amounts and times.",
    "What are the differences between a river, a canal and a lake? Answer in three sentences.",
    "Write a polite letter to a neighbour who plays the trumpet late at night, and suggest better times.",
)
"""Of several lengths and kinds. They are part of what a report says: change none without a new version of the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent.

    Attributes:
        prompts: Each is sent once a round.
        rounds: How often.
        concurrency: Requests in flight at once, at most.
        max_tokens: Tokens to generate for each.
        warmup: Requests before those that count.
        chat: Whether prompts are sent as chat messages: a model that was taught to chat may have nothing to add to
            raw text, and end at once. False sends them as they are.
    """

    prompts: Sequence[str] = field(default=DEFAULT_PROMPTS)
    rounds: int = 1
    concurrency: int = 1
    max_tokens: int = 32
    warmup: int = 1
    chat: bool = True

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidValueError: A field cannot be used.
        """
        prompts = self.prompts
        if isinstance(prompts, str) or not prompts or not all(isinstance(each, str) and each for each in prompts):
            raise InvalidValueError("prompts", prompts, "give a list of texts")
        for name, least in (("rounds", 1), ("concurrency", 1), ("max_tokens", 2), ("warmup", 0)):
            if getattr(self, name) < least:
                raise InvalidValueError(name, getattr(self, name), f"give {least} or more")

    @property
    def requests(self) -> int:
        """Requests that count."""
        return len(self.prompts) * self.rounds

    def texts(self) -> Iterator[str]:
        """Prompts as they are sent: with a beginning of their own, so that none is found in a cache of another."""
        for number in range(self.requests):
            yield f"{number + 1}. {self.prompts[number % len(self.prompts)]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What came of a load.

    Attributes:
        results: Of each request that counts, in the order in which they ended.
        wall_s: Seconds from the first submission to the last end.
    """

    results: tuple[InferenceResult, ...]
    wall_s: float


def send(
    engine: InferenceEngine,
    load: Load,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Sent:
    """Sends a load through an engine: a request as soon as another one ended.

    Args:
        engine: Where to.
        load: What.
        on_progress: Told after each request how many are done, and of how many.
        clock: What the whole is measured on; each request is on the engine's.

    Raises:
        LlamatelemetryError: A request failed; the others are cancelled.
    """
    for number in range(load.warmup):
        engine.generate(_request(f"0.{number} {load.prompts[number % len(load.prompts)]}", load))
    waiting = load.texts()
    running: set[InferenceFuture] = set()
    results: list[InferenceResult] = []
    began_ns = clock.monotonic_ns()
    try:
        while True:
            while len(running) < load.concurrency and (text := next(waiting, None)) is not None:
                running.add(engine.submit(_request(text, load)))
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in [each for each in running if each in done]:
                running.discard(future)
                results.append(future.result())
                if on_progress is not None:
                    on_progress(len(results), load.requests)
    finally:
        for future in running:
            future.abandon()
    return Sent(results=tuple(results), wall_s=(clock.monotonic_ns() - began_ns) * 1e-9)


def _request(text: str, load: Load) -> InferenceRequest:
    question = {"messages": [{"role": "user", "content": text}]} if load.chat else {"prompt": text}
    return InferenceRequest(**question, max_tokens=load.max_tokens, sampling=SamplingParams(temperature=0), seed=1)
