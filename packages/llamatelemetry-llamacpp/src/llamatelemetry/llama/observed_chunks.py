"""What can be heard of an answer that is on its way to somebody else, in OpenAI's shape.

llama-cpp-python's answers and those of llama.cpp's server are alike: an object holds a whole answer,
embeddings, an error or the next chunk of a stream. What is not understood is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamatelemetry.backends.protocol import Alternative, BackendTimings, FinishReason, StreamEnd, Usage
from llamatelemetry.errors import BackendProtocolError
from llamatelemetry.llama.answer_replies import Timings, TokenUsage, ToolCallDelta
from llamatelemetry.llama.answers import FINISH_REASONS, ToolCall, timings_of, usage_of
from llamatelemetry.llama.observed_models import spelled


class HeardAnswer:
    """Collects what telemetry tells of the answer to one prompt, which may be several choices.

    Args:
        keeps_content: Whether texts may be exported; else they are not kept.
        wanted: How many choices were asked for.

    Attributes:
        failure: The message that said that there is no answer, or none any more.
        model: The model, as the answer names it.
    """

    def __init__(self, *, keeps_content: bool, wanted: int = 1) -> None:
        self._keeps_content = keeps_content
        self._wanted = wanted
        self._choices: dict[int, _Choice] = {}
        self._ends: list[Usage] = []
        self._timings = BackendTimings()
        self._most_choices = 0
        self._so_far = Usage()
        self._id: str | None = None
        self.model: str | None = None
        self._vector: tuple[float, ...] = ()
        self.failure: Mapping[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether it was said of each choice why it ended."""
        return self._ended >= self._wanted

    @property
    def text(self) -> str:
        """The first choice so far, if content is kept."""
        return self._in_order[0].text

    @property
    def reasoning(self) -> str:
        """Its reasoning so far, if content is kept."""
        return self._in_order[0].reasoning

    def hear(self, message: object) -> bool:
        """Takes the next message.

        Returns:
            Whether it carries something that was generated: a chunk with a role alone does not.
        """
        if isinstance(message, list):
            # Embeddings that were asked for in llama.cpp's own words.
            message = {"data": message}
        if not isinstance(message, Mapping):
            return False
        if message.get("error") is not None:
            self.failure = message
            return False
        if self.model is None:
            self._id, self.model = _text(message.get("id")), _text(message.get("model"))
        choices = message.get("choices")
        choices = choices if isinstance(choices, list) else []
        generated = [self._hear_choice(choice) for choice in choices if isinstance(choice, Mapping)]
        self._hear_counts(message, choices)
        self._hear_vector(message.get("data"))
        return any(generated)

    def end(self, usage: Usage | None = None, *, cut: FinishReason | None = None) -> StreamEnd:
        """The end of the answer, as far as it was heard.

        Args:
            usage: Counts that are known better.
            cut: Why it ends before its time, and so each choice that has not ended; as a whole, it ends so too.
        """
        first, *others = self._in_order
        return StreamEnd(
            finish_reason=cut or first.finish_reason,
            usage=self.usage() if usage is None else usage,
            timings=self._timings if self._is_single and cut is None else BackendTimings(),
            response_id=self._id,
            response_model=None if self.model is None else spelled(self.model),
            tool_calls=first.tool_calls,
            embeddings=(self._vector,) if self._vector else (),
            alternatives=tuple(other.alternative(cut) for other in others),
        )

    def usage(self) -> Usage:
        """Tokens, as counted by whoever answers. Each choice of a stream has a count of its own."""
        first = self._ends[0] if self._ends else self._so_far
        if self._is_single:
            return first
        if self._most_choices > 1:
            # A whole answer with several choices has the counts of the first alone.
            return Usage(input_tokens=first.input_tokens)
        if len(self._ends) < len(self._choices):
            # It was cut off, and nobody told what the others had until then.
            return Usage(input_tokens=first.input_tokens, cached_tokens=first.cached_tokens)
        output_tokens = _sum(end.output_tokens for end in self._ends)
        return Usage(input_tokens=first.input_tokens, output_tokens=output_tokens, cached_tokens=first.cached_tokens)

    @property
    def _in_order(self) -> list[_Choice]:
        return [self._choices[index] for index in sorted(self._choices)] or [_Choice()]

    @property
    def _ended(self) -> int:
        return sum(choice.reason is not None for choice in self._choices.values())

    @property
    def _is_single(self) -> bool:
        return max(len(self._ends), len(self._choices), self._most_choices) <= 1

    def _hear_choice(self, choice: Mapping[str, Any]) -> bool:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        heard = self._choices.get(index)
        if heard is None:
            heard = self._choices[index] = _Choice()
        heard.reason = _text(choice.get("finish_reason")) or heard.reason
        part = choice.get("delta") or choice.get("message") or choice
        if not isinstance(part, Mapping):
            return False
        text = _text(part.get("content")) or _text(part.get("text"))
        reasoning = _text(part.get("reasoning_content"))
        calls = part.get("tool_calls")
        if not calls and part.get("function_call"):
            calls = [{"function": part["function_call"]}]
        if self._keeps_content:
            heard.add(text, reasoning, calls or ())
        return bool(text or reasoning or calls)

    def _hear_counts(self, message: Mapping[str, Any], choices: Sequence[Any]) -> None:
        told_usage, told_timings = message.get("usage"), message.get("timings")
        if told_usage is None and told_timings is None:
            return
        try:
            timings = None if told_timings is None else Timings.from_json(told_timings)
            usage = usage_of(None if told_usage is None else TokenUsage.from_json(told_usage), timings)
        except BackendProtocolError:
            return
        if choices and not any(isinstance(choice, Mapping) and choice.get("finish_reason") for choice in choices):
            # A server that is asked to tells on the way how far it is.
            self._so_far = usage
            return
        if told_usage is not None and "completion_tokens" not in told_usage:
            usage = Usage(input_tokens=usage.input_tokens)
        if self._ends and len(self._ends) >= self._ended:
            # The counts come in a chunk of their own, and some came with the reason already.
            self._ends.pop()
        self._ends.append(usage)
        self._timings = timings_of(timings)
        self._most_choices = max(self._most_choices, len(choices))

    def _hear_vector(self, data: object) -> None:
        first = data[0].get("embedding") if isinstance(data, list) and data and isinstance(data[0], Mapping) else None
        # A model that does not pool has a vector for each token.
        while isinstance(first, list) and first and isinstance(first[0], list):
            first = first[0]
        if isinstance(first, list) and first and isinstance(first[0], float | int):
            self._vector = tuple(first)


class _Choice:
    """One answer of those that a prompt was given."""

    __slots__ = ("_calls", "_reasoning", "_texts", "reason")

    def __init__(self) -> None:
        self.reason: str | None = None
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, ToolCall] = {}

    def add(self, text: str | None, reasoning: str | None, calls: Sequence[Any]) -> None:
        """Takes the next piece."""
        self._texts.extend([text] if text else ())
        self._reasoning.extend([reasoning] if reasoning else ())
        for position, call in enumerate(calls):
            piece = ToolCallDelta.from_json(call)
            index = piece.index if "index" in call else position
            self._calls.setdefault(index, ToolCall()).add(piece)

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return FINISH_REASONS.get(self.reason or "", "stop")

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[Mapping[str, Any], ...]:
        """Whole tool calls."""
        return tuple(call.whole() for _, call in sorted(self._calls.items()))

    def alternative(self, cut: FinishReason | None) -> Alternative:
        """As one that is not the first; where it has not ended, cut off for a reason, or for none."""
        reason = cut if cut is not None and self.reason is None else self.finish_reason
        return Alternative(finish_reason=reason, text=self.text, reasoning=self.reasoning, tool_calls=self.tool_calls)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _sum(counts: Any) -> int | None:
    known = list(counts)
    return None if None in known else sum(known)
