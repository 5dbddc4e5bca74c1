"""One call of ``generate`` under observation: an observation for each prompt, and the steps they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.errors import InvalidRequestError
from llamatelemetry.inference.observation import Observation
from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.transformers.asked import Asked
from llamatelemetry.transformers.batch_rows import Answer, Counted, answers_of_result, counted
from llamatelemetry.transformers.described_model import describe
from llamatelemetry.transformers.generate_call import GenerateCall, Question
from llamatelemetry.transformers.steps import Steps
from llamatelemetry.transformers.told_later import ToldLater


class Generation:
    """What is seen of one call, from its arguments to its end.

    A model may have a ``generate`` of its own that calls the common one, once or several times. All of
    that is one generation, and the loops that belong to it are those that run where the first did: what
    runs further in is an assistant's.

    Args:
        model: The model that is called.
        arguments: Arguments of the call, by name.
        asked: What a pipeline knows of it.
        sink: Takes the records.
    """

    def __init__(
        self, model: Any, arguments: Mapping[str, Any], asked: Asked | None, sink: InstrumentationSink
    ) -> None:
        self._call = call = GenerateCall(model, arguments)
        self._tokenizer = _tokenizer(arguments, asked) if sink.captures_content else None
        self._cached_tokens = call.cached_tokens
        self._loops: list[Steps] = []
        # Healing the prompt's last token generates too, further in and before anything else does.
        self._depth = 0 if call.settings["token_healing"] else None
        info = describe(model)
        streaming = call.argument("streamer") is not None
        self._requests = _requests(self._questions(asked), call.prompts)
        self._observations = [Observation(request, info, sink, streaming=streaming) for request in self._requests]
        for observation in self._observations:
            observation.started()
        self._begun_ns = SYSTEM_CLOCK.monotonic_ns()

    def active(self) -> AbstractContextManager[object]:
        """Makes it what this thread works for: what is traced meanwhile belongs to the first prompt's span."""
        return self._observations[0].active()

    def loop(self, depth: int, config: Any, *, previews: bool) -> Steps | None:
        """A decoding loop begins: what it is to be noted in, or None if it is somebody else's.

        Args:
            depth: How many calls of ``generate`` it is within, the observed one not counted.
            config: The generation configuration that it runs under.
            previews: Whether assisted decoding asks its criteria about candidates, as it did before 5.18.
        """
        if self._depth is None:
            self._depth = depth
        if depth != self._depth:
            return None
        assisted = self._call.is_assisted
        one_by_one = not assisted and self._call.argument("custom_generate") is None
        steps = Steps(config, one_by_one=one_by_one, previewed=previews and assisted)
        self._loops.append(steps)
        return steps

    @quietly
    def came_back(self, depth: int, result: Any) -> None:
        """A ``generate`` has returned: what its loop made, and not what a model's own makes of it, is counted.

        Args:
            depth: How many calls of ``generate`` it was within, the observed one not counted.
            result: What it returned.
        """
        if depth == self._depth and self._loops:
            self._loops[-1].returned = _sequences(result)

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Ends it: what is in tensors is counted, and the rest left to whoever makes the spans.

        Args:
            result: What ``generate`` returned.
            error: What it raised.
        """
        loops, answers = self._generated(result) or ((), None)
        later = ToldLater(
            settings=self._call.settings,
            new_tokens=self._call.new_tokens(),
            requests=self._requests,
            prompt_tokens=self._prompt_tokens(),
            cached_tokens=self._cached_tokens,
            loops=loops,
            answers=answers,
            texts=(),
            begun_ns=self._begun_ns,
            is_error=error is not None,
        )
        if self._tokenizer is not None:
            later.texts = [self._decoded(answer) or () for answer in later.all_answers or ()]
        for row, observation in enumerate(self._observations):
            observation.finish_later(partial(later.told, row), error=error)

    @quietly
    def _generated(self, result: Any) -> tuple[list[Counted], list[Answer] | None]:
        """What is counted of each loop, or else the answers as far as they can be told without."""
        requests, call, with_ids = len(self._observations), self._call, self._tokenizer is not None
        self.came_back(0, result)
        loops = [loop for loop in self._loops if loop.any_made]
        if not loops:
            return [], answers_of_result(_sequences(result), requests, call.width, call.config())
        width = call.width if call.is_assisted else None
        parts = [counted(loop, requests, width, with_ids=with_ids) for loop in loops]
        whole = [part for part in parts if part is not None]
        return (whole if len(whole) == len(parts) else []), None

    @quietly
    def _prompt_tokens(self) -> list[int] | None:
        tokens = self._call.prompt_tokens()
        # A batch of no prompts is one request all the same, and has none.
        return tokens if tokens is not None and len(tokens) == len(self._requests) else None

    @quietly
    def _decoded(self, answer: Answer) -> list[str]:
        # Here and now: a tokenizer is not for two threads at once.
        tokenizer: Any = self._tokenizer
        return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in answer.ids]

    def _questions(self, asked: Asked | None) -> Sequence[Any]:
        if asked is not None:
            return asked.questions
        return [] if self._tokenizer is None else self._prompt_texts() or []

    @quietly
    def _prompt_texts(self) -> list[str]:
        # Whatever stands for pictures in a prompt need not be a token that the tokenizer knows.
        return self._call.prompt_texts(self._tokenizer)


def _requests(questions: Sequence[Question], prompts: int) -> list[InferenceRequest]:
    """One request for each prompt, without settings; without words too where those are not of each."""
    return [_request(question) for question in (questions if len(questions) == prompts else [""] * prompts)]


def _request(question: Question) -> InferenceRequest:
    try:
        if isinstance(question, str):
            return InferenceRequest(prompt=question)
        return InferenceRequest(messages=question)
    except InvalidRequestError:
        return InferenceRequest(prompt="")


def _tokenizer(arguments: Mapping[str, Any], asked: Asked | None) -> Any:
    """Whatever can turn tokens back into text: a pipeline's tokenizer, the call's, or its streamer's."""
    if asked is not None and asked.tokenizer is not None:
        return asked.tokenizer
    given = arguments.get("tokenizer")
    return getattr(arguments.get("streamer"), "tokenizer", None) if given is None else given


def _sequences(result: Any) -> Any:
    """The sequences that were returned, if that is what was returned."""
    sequences = getattr(result, "sequences", result)
    is_tokens = len(getattr(sequences, "shape", ())) == 2 and not sequences.is_floating_point()
    return sequences if is_tokens else None
