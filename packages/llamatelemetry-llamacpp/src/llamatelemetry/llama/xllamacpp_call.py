"""One ``handle_*`` of an ``xllamacpp.Server`` while it is observed.

The server answers in JSON, whole or chunk by chunk: to a callback or as what the call returns, and in
the type of the question: an object, or its text or bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from llamatelemetry.backends.protocol import FinishReason, ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest, Operation
from llamatelemetry.errors import BackendResponseError
from llamatelemetry.inference.observation import Observation
from llamatelemetry.inference.sink import RecordSink
from llamatelemetry.llama.observed_chunks import HeardAnswer
from llamatelemetry.llama.observed_requests import observed_request, prompts_in
from llamatelemetry.otel.guard import quietly

Callback = Callable[[Any], Any]


class ServerCall:
    """A call, from its beginning to its end.

    Args:
        operation: What the function that is called does.
        body: The question, read.
        model: What is known of the model.
        sink: Takes the record.
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
        request: InferenceRequest = observed_request(operation, body, keeps_content=keeps_content)
        self.heard = HeardAnswer(keeps_content=keeps_content, prompts=prompts_in(body))
        self._streaming = body.get("stream") is True
        self._stopped = False
        self._refused: BaseException | None = None
        self._observation = Observation(request, model, sink, streaming=self._streaming)
        self._observation.started()
        self._begun_ns = time.perf_counter_ns()

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
        end = self.heard.end()
        failure = self.heard.failure
        if failure is not None:
            self._finish("error", error=_error(failure))
        elif self.heard.complete or not self._was_cut_off:
            self._place_first_token(end)
            self._observation.finish(end, text=self.heard.text, reasoning=self.heard.reasoning)
        elif self._refused is not None:
            self._finish("error", error=self._refused)
        else:
            self._finish("cancelled")

    @quietly
    def failed(self, error: BaseException) -> None:
        """Notes that the call raised."""
        self._finish("error", error=error)

    @property
    def _was_cut_off(self) -> bool:
        return self._stopped or self._refused is not None

    @quietly
    def _hear(self, message: Any) -> None:
        if isinstance(message, str | bytes):
            message = json.loads(message)
        if self.heard.hear(message) and self._streaming:
            self._observation.token()

    def _place_first_token(self, end: StreamEnd) -> None:
        """Tells when an answer that came whole had its first token: as long ago as the server says it took since.

        Nobody saw it, and yet the server, which is in this process, has measured it: without it, reading
        the prompt would seem to have taken as long as the whole answer.
        """
        decode_ms = end.timings.decode_ms
        if not self._streaming and decode_ms is not None:
            self._observation.tokens_at([max(self._begun_ns, time.perf_counter_ns() - round(decode_ms * 1e6))])

    def _finish(self, reason: FinishReason, error: BaseException | None = None) -> None:
        end = self.heard.end()
        end = StreamEnd(
            finish_reason=reason,
            usage=end.usage,
            response_id=end.response_id,
            response_model=end.response_model,
            tool_calls=end.tool_calls,
        )
        self._observation.finish(end, text=self.heard.text, reasoning=self.heard.reasoning, error=error)


def _error(message: Mapping[str, Any]) -> BackendResponseError:
    # Here, because it knows of HTTP, and most applications never need it.
    from llamatelemetry.llama.failures import error_from_message

    return error_from_message(500, message)
