"""What is left to tell of a call of ``generate`` once its tensors were looked at: for another thread to do.

It refers to no model and to no tensor that an application has: it may free, or write over, what it has got back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llamatelemetry.backends.protocol import Alternative, FinishReason, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.observation import Told
from llamatelemetry.transformers.batch_rows import Answer, Counted, answers_of_steps
from llamatelemetry.transformers.generate_settings import GenerateSettings


@dataclass(kw_only=True)
class ToldLater:
    """One call that has ended.

    Attributes:
        settings: Those in force.
        new_tokens: Most tokens that might have been generated.
        requests: As they were opened, one for each prompt.
        prompt_tokens: Of each prompt; None where nobody knows.
        cached_tokens: How many of these a cache held before.
        loops: What was counted of each decoding loop that was seen; none where nobody saw how.
        answers: What is known of the answers without.
        texts: By request, each of its answers in words; none where they are not wanted.
        begun_ns: When it began, on the monotonic clock.
        is_error: Whether it raised.
    """

    settings: GenerateSettings
    new_tokens: Any
    requests: Sequence[InferenceRequest]
    prompt_tokens: Sequence[int] | None
    cached_tokens: int | None
    loops: Sequence[Counted]
    answers: Sequence[Answer] | None
    texts: Sequence[Sequence[str]]
    begun_ns: int
    is_error: bool

    def told(self, row: int) -> Told:
        """What there is to tell of one request."""
        answer = None if self.all_answers is None else self.all_answers[row]
        input_tokens = None if self.prompt_tokens is None else self.prompt_tokens[row]
        cached = self.cached_tokens
        usage = Usage(
            input_tokens=input_tokens,
            output_tokens=None if answer is None else answer.tokens,
            cached_tokens=None if cached is None or input_tokens is None else min(cached, input_tokens),
        )
        reasons: Sequence[FinishReason]
        reasons = ("error",) if self.is_error else ("stop",) if answer is None else self._reasons(answer)
        texts = [*(self.texts[row] if self.texts else ()), *([""] * len(reasons))]
        others = zip(reasons[1:], texts[1:], strict=False)
        moments = [] if answer is None else answer.moments
        return Told(
            request=self.settings.request(self.requests[row], self.new_tokens),
            end=StreamEnd(
                finish_reason=reasons[0],
                usage=usage,
                alternatives=tuple(Alternative(finish_reason=reason, text=text) for reason, text in others),
            ),
            tokens_ns=moments,
            text=texts[0],
            # An answer may wait for others of its batch.
            at_ns=moments[-1] if answer is not None and answer.early and moments else None,
        )

    def _reasons(self, answer: Answer) -> Sequence[FinishReason]:
        """One for each answer that was asked for: sound may have a sequence for each of its codebooks."""
        asked = self.settings["num_return_sequences"] or 1
        of_each, rest = divmod(len(answer.reasons), asked)
        if rest or of_each <= 1:
            return answer.reasons
        parts = [answer.reasons[first : first + of_each] for first in range(0, len(answer.reasons), of_each)]
        return ["length" if "length" in part else "stop" for part in parts]

    @cached_property
    def all_answers(self) -> Sequence[Answer] | None:
        """What was generated, by request."""
        whole: list[Answer] = []
        for loop in self.loops:
            part = answers_of_steps(loop, len(self.requests), self.begun_ns)
            for answer, more in zip(whole, part, strict=False):
                answer.go_on(more)
            whole = whole or part
        return whole or self.answers
