"""One call of ``generate`` under observation: an observation for each prompt, and the steps they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from llamatelemetry.backends.protocol import StreamEnd, Usage
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.inference.observation import Observation
from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.transformers.asked import Asked
from llamatelemetry.transformers.batch_rows import Answer, answers_of_result, answers_of_steps
from llamatelemetry.transformers.described_model import describe
from llamatelemetry.transformers.generate_call import GenerateCall
from llamatelemetry.transformers.steps import Steps


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
        self._depth = 0 if call.setting("token_healing") else None
        info = describe(model)
        streaming = call.argument("streamer") is not None
        requests = call.requests(self._questions(asked))
        self._observations = [Observation(request, info, sink, streaming=streaming) for request in requests]
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

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Ends it.

        Args:
            result: What ``generate`` returned.
            error: What it raised.
        """
        answers = self._answers(result)
        prompt_tokens = self._prompt_tokens()
        for row, observation in enumerate(self._observations):
            answer = None if answers is None else answers[row]
            input_tokens = None if prompt_tokens is None else prompt_tokens[row]
            self._finish(observation, answer, input_tokens, error)

    @quietly
    def _answers(self, result: Any) -> list[Answer] | None:
        requests, call, with_ids = len(self._observations), self._call, self._tokenizer is not None
        returned = _sequences(result)
        loops = [loop for loop in self._loops if loop.any_made]
        if not loops:
            return answers_of_result(returned, requests, call.width, call.config())
        if len(loops) > 1:
            returned = None  # Of several loops it is put together, somehow.
        width = call.width if call.is_assisted else None
        whole: list[Answer] | None = None
        for loop in loops:
            part = answers_of_steps(loop, requests, width, self._begun_ns, returned, with_ids=with_ids)
            if part is None:
                return None
            for answer, more in zip(whole or (), part, strict=False):
                answer.go_on(more)
            whole = whole or part
        return whole

    @quietly
    def _prompt_tokens(self) -> list[int] | None:
        return self._call.prompt_tokens()

    def _finish(
        self, observation: Observation, answer: Answer | None, input_tokens: int | None, error: BaseException | None
    ) -> None:
        cached = self._cached_tokens
        usage = Usage(
            input_tokens=input_tokens,
            output_tokens=None if answer is None else answer.tokens,
            cached_tokens=None if cached is None or input_tokens is None else min(cached, input_tokens),
        )
        reason = "error" if error is not None else "stop" if answer is None else answer.reason
        ended_ns = None
        if answer is not None and answer.moments:
            observation.tokens_at(answer.moments)
            ended_ns = answer.moments[-1] if answer.early else None
        observation.finish(
            StreamEnd(finish_reason=reason, usage=usage),
            text=self._decoded(answer) or "",
            error=error,
            at_ns=ended_ns,
        )

    @quietly
    def _decoded(self, answer: Answer | None) -> str:
        if answer is None or self._tokenizer is None:
            return ""
        return str(self._tokenizer.decode(answer.ids, skip_special_tokens=True))

    def _questions(self, asked: Asked | None) -> Sequence[Any]:
        if asked is not None:
            return asked.questions
        return [] if self._tokenizer is None else self._call.prompt_texts(self._tokenizer)


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
