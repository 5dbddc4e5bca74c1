"""An inference that somebody else runs, recorded as one of ours: what an instrumentor makes its spans from.

The engine is not in the way of such an inference: the instrumented library is called as ever, and
what is seen of it, timestamps above all, goes into the same record that the engine's requests have.
So a span of ours is the same span whoever ran the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from llamatelemetry.backends.protocol import ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK, Clock
from llamatelemetry.inference.events import EventRecorder
from llamatelemetry.inference.metering import PendingUse, current_meter
from llamatelemetry.inference.record import FinishedRecord
from llamatelemetry.inference.sink import RecordSink, RequestTrace


@dataclass(slots=True, kw_only=True)
class Told:
    """What is told of an inference after its end.

    Attributes:
        end: How it ended, and what is counted.
        request: What was asked, in full.
        tokens_ns: When tokens came, on the monotonic clock and in order.
        text: The answer, if content is exported.
        at_ns: When it ended, where that was before it was seen to end.
    """

    end: StreamEnd
    request: InferenceRequest
    tokens_ns: Iterable[int] = ()
    text: str = ""
    at_ns: int | None = None


class Observation:
    """One inference under observation, from its call to its end. Nothing of it raises or blocks.

    Times given are of the clock's monotonic source; left out, they are now.

    Args:
        request: What was asked, as far as it can be told.
        model: What was asked for it.
        sink: Takes the record.
        streaming: Whether the caller is given tokens as they come.
        clock: Time it is measured on.
    """

    __slots__ = ("_ended", "_hardware", "_now", "_recorder", "_trace")

    def __init__(
        self,
        request: InferenceRequest,
        model: ModelInfo,
        sink: RecordSink,
        *,
        streaming: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._recorder = EventRecorder(request, model, streaming=streaming, queue_depth=0, clock=clock)
        self._now = clock.monotonic_ns
        self._trace: RequestTrace = sink.begin(self._recorder.opening)
        self._hardware: PendingUse | None = None
        self._ended = False

    @property
    def trace_id(self) -> str | None:
        """Trace id, 32 hex digits, or None."""
        return self._trace.trace_id

    def active(self) -> AbstractContextManager[object]:
        """Makes it the current span of this thread, and what is traced meanwhile a part of it."""
        return self._trace.active()

    def expects(self, prompt_tokens: int | None) -> None:
        """Notes how many tokens the prompt has, as soon as that is known."""
        self._recorder.queued(prompt_tokens)

    def started(self, at_ns: int | None = None) -> None:
        """Notes that the model begins with it. Where nothing waits in between, that is when it was called."""
        if at_ns is None:
            self._recorder.dispatched_at_once()
        else:
            self._recorder.dispatched(at_ns)
        self._hardware = current_meter().begin(self._recorder)

    def token(self) -> None:
        """Notes that a token has come."""
        self._recorder.token()

    def tokens_at(self, moments_ns: Iterable[int]) -> None:
        """Notes when tokens came, told afterwards and in order."""
        self._recorder.tokens_at(moments_ns)

    def held_back(self, nanoseconds: int) -> None:
        """Notes how long in all the model was kept waiting by the reader after the latest token."""
        self._recorder.held_back(nanoseconds)

    def finish(
        self,
        end: StreamEnd,
        *,
        text: str = "",
        reasoning: str = "",
        error: BaseException | None = None,
        at_ns: int | None = None,
    ) -> None:
        """Ends it; a second call does nothing, so that an abandoned stream is closed once.

        Args:
            end: How it ended, and what is counted.
            text: The answer, if content is exported.
            reasoning: The reasoning, if content is exported.
            error: What went wrong.
            at_ns: When it ended, where that is told afterwards: an answer may wait for others of its batch.
        """
        if self._ended:
            return
        self._ended = True
        record = self._recorder.finish(
            end, text=text, reasoning=reasoning, error=error, hardware=self._hardware, at_ns=at_ns
        )
        self._trace.finish(record)

    def finish_later(self, tell: Callable[[], Told], *, error: BaseException | None = None) -> None:
        """Ends it now, and leaves it to another thread to find out how: the caller does not wait for that.

        Where hardware is measured it does, because energy is shared by the tokens that there were.

        Args:
            tell: Finds out. It is kept until then, with all it refers to, and must not look at what the
                application may change or free meanwhile.
            error: What went wrong.
        """
        if self._ended:
            return
        self._ended = True
        ended_ns, recorder, hardware = self._now(), self._recorder, self._hardware

        def make() -> FinishedRecord:
            told = tell()
            recorder.asked(told.request)
            recorder.tokens_at(told.tokens_ns)
            at_ns = ended_ns if told.at_ns is None else told.at_ns
            return recorder.finish(told.end, text=told.text, error=error, hardware=hardware, at_ns=at_ns)

        if hardware is None:
            self._trace.finish_later(make)
        else:
            self._trace.finish(make())
