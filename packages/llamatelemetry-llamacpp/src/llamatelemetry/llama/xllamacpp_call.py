"""One ``handle_*`` of an ``xllamacpp.Server`` while it is observed.

The server answers in JSON, whole or chunk by chunk: to a callback or as what the call returns, and in
the type of the question: an object, or its text or bytes. A completion may have several prompts: each
is a request of its own to the server, and so it is here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from llamatelemetry.backends.protocol import FinishReason, ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest, Operation
from llamatelemetry.errors import BackendResponseError
from llamatelemetry.inference.observation import Observation
from llamatelemetry.inference.sink import RecordSink
from llamatelemetry.llama.observed_chunks import HeardAnswer
from llamatelemetry.llama.observed_requests import each_prompt, observed_request
from llamatelemetry.otel.guard import quietly

Callback = Callable[[Any], Any]

_now: Final = time.perf_counter_ns


class ServerCall:
    """A call, from its beginning to its end.

    Args:
        operation: What the function that is called does.
        body: The question, read.
        model: What is known of the model.
        sink: Takes the records.
        keeps_content: Whether texts may be exported.
    """

    def __init__(
        self,
        *,
        operation: Operation,
        body: Mapping[str, Any],
        model: ModelInfo,
        sink: RecordSink,
        keeps_content: bool,
    ) -> None:
        streaming = body.get("stream") is True
        questions = each_prompt(body) if operation == "text_completion" else (body,)
        requests = [observed_request(operation, question, keeps_content=keeps_content) for question in questions]
        self._choices = requests[0].n
        self._stopped = False
        self._refused: BaseException | None = None
        self._answers = [
            _Answer(request, model, sink, streaming=streaming, keeps_content=keeps_content) for request in requests
        ]

    @property
    def answered_by(self) -> str | None:
        """The model, as the server names it; None before it has."""
        return self._answers[0].heard.model

    def listening(self, callback: Callback) -> Callback:
        """The callback, observed. xllamacpp takes what it raises for a wish to stop, and says nothing of it."""

        def hear(message: Any) -> bool:
            self._hear(message)
            try:
                self._stopped = bool(callback(message))
            except BaseException as error:
                self._refused = error
                raise
            return self._stopped

        return hear

    @quietly
    def ended(self, answer: Any) -> None:
        """Notes that the call returns, with the answer unless that went to a callback."""
        if answer is not None:
            self._hear(answer)
        # Its traceback leads back to here: kept, the callback would live until the garbage is collected.
        refused, self._refused = self._refused, None
        for each in self._answers:
            each.ended(cut_off=self._stopped or refused is not None, refused=refused)

    @quietly
    def failed(self, error: BaseException) -> None:
        """Notes that the call raised."""
        self._refused = None
        for each in self._answers:
            each.close("error", error)

    @quietly
    def _hear(self, message: Any) -> None:
        if isinstance(message, str | bytes):
            message = json.loads(message)
        for each, share in self._shared(message):
            each.hear(share)

    def _shared(self, message: Any) -> Iterator[tuple[_Answer, Any]]:
        """By answer, what a message has of it: choices are numbered through all prompts."""
        choices = message.get("choices") if isinstance(message, Mapping) else None
        if len(self._answers) == 1 or not choices:
            for each in self._answers:
                yield each, message
            return
        whole = len(choices) > 1
        for number, each in enumerate(self._answers):
            share = [choice for choice in choices if choice.get("index", 0) // self._choices == number]
            if share:
                # A whole answer has the counts of the first prompt alone.
                unknown = {"usage": None, "timings": None} if whole and number else {}
                numbered = [{**choice, "index": choice.get("index", 0) % self._choices} for choice in share]
                yield each, {**message, **unknown, "choices": numbered}


class _Answer:
    """What is observed of the answer to one prompt."""

    __slots__ = ("_begun_ns", "_heard_ns", "_observation", "_streaming", "heard")

    def __init__(
        self, request: InferenceRequest, model: ModelInfo, sink: RecordSink, *, streaming: bool, keeps_content: bool
    ) -> None:
        self.heard = HeardAnswer(keeps_content=keeps_content, wanted=request.n)
        self._streaming = streaming
        self._observation = Observation(request, model, sink, streaming=streaming)
        self._observation.started()
        self._begun_ns = _now()
        self._heard_ns: int | None = None

    def hear(self, message: Any) -> None:
        """Takes the next message, or what it has of this answer."""
        if self.heard.hear(message) and self._streaming:
            self._observation.token()
        self._heard_ns = _now()

    def ended(self, *, cut_off: bool, refused: BaseException | None) -> None:
        """Notes that nothing more will come.

        Args:
            cut_off: Whether the callback wanted no more.
            refused: What it raised.
        """
        if self.heard.failure is not None:
            self.close("error", _error(self.heard.failure))
        elif self.heard.complete or not cut_off:
            end = self.heard.end()
            self._place_first_token(end)
            # Not now: others of the call may have taken longer, or what the callback did with it.
            self._finish(end, at_ns=self._heard_ns)
        elif refused is not None:
            self.close("error", refused)
        else:
            self.close("cancelled")

    def close(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """Ends it before its time."""
        self._finish(self.heard.end(cut=reason), error=error)

    def _place_first_token(self, end: StreamEnd) -> None:
        """Tells when an answer that came whole had its first token: as long ago as the server says it took since.

        Nobody saw it, and yet the server, which is in this process, has measured it: without it, reading
        the prompt would seem to have taken as long as the whole answer.
        """
        decode_ms = end.timings.decode_ms
        if not self._streaming and decode_ms is not None and self._heard_ns is not None:
            self._observation.tokens_at([max(self._begun_ns, self._heard_ns - round(decode_ms * 1e6))])

    def _finish(self, end: StreamEnd, *, error: BaseException | None = None, at_ns: int | None = None) -> None:
        text, reasoning = self.heard.text, self.heard.reasoning
        self._observation.finish(end, text=text, reasoning=reasoning, error=error, at_ns=at_ns)


def _error(message: Mapping[str, Any]) -> BackendResponseError:
    # Here, because it knows of HTTP, and most applications never need it.
    from llamatelemetry.llama.failures import error_from_message

    return error_from_message(500, message)
