"""What happens to one request while it happens: timestamps, and nothing else.

When the request ends, :meth:`EventRecorder.finish` freezes them into a
:class:`~llamatelemetry.inference.record.FinishedRecord`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from llamatelemetry.backends.protocol import KVReport, ModelInfo, StreamEnd
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import Clock
from llamatelemetry.inference.metering import PendingUse, Work
from llamatelemetry.inference.record import Attempt, FinishedRecord, KVHold, Opening


class EventRecorder:
    """Collects the timestamps of one request. One writer at a time; the clock is injected.

    ``token()`` is the only call per token: it appends the monotonic time to an array.
    """

    __slots__ = (
        *("_admission", "_admitted", "_anchor_ns", "_answered_by", "_attempts", "_begun", "_dispatched", "_finished"),
        *(
            "_held_back",
            "_kv",
            "_now",
            "_prefill_tokens",
            "_prompt_tokens",
            "_queued",
            "_queueless",
            "_slot",
            "_tokens",
            "opening",
        ),
    )

    def __init__(
        self, request: InferenceRequest, model: ModelInfo, *, streaming: bool, queue_depth: int, clock: Clock
    ) -> None:
        self._now = clock.monotonic_ns
        submitted = self._now()
        self._anchor_ns = clock.time_ns() - submitted
        self._queued: int | None = None
        self._queueless = False
        self._admitted: int | None = None
        self._admission: str | None = None
        self._kv: KVHold | None = None
        self._slot: int | None = None
        self._answered_by: ModelInfo | None = None
        self._attempts: tuple[Attempt, ...] = ()
        self._begun: int | None = None
        self._dispatched: int | None = None
        self._finished: int | None = None
        self._prompt_tokens: int | None = None
        self._prefill_tokens: int | None = None
        self._tokens: array[int] = array("q")
        self._held_back: dict[int, int] = {}
        self.opening: Opening = Opening(
            request=request,
            model=model,
            streaming=streaming,
            submitted_ns=submitted + self._anchor_ns,
            queue_depth=queue_depth,
        )

    def asked(self, request: InferenceRequest) -> None:
        """Notes what was asked, where that was not known in full when it was."""
        self.opening = replace(self.opening, request=request)

    def queued(self, prompt_tokens: int | None = None) -> None:
        """Notes that the request joins the queue.

        Args:
            prompt_tokens: Tokens of its prompt, as far as the engine knows.
        """
        self._queued = self._now()
        self._prompt_tokens = prompt_tokens

    def admitted(
        self,
        *,
        kv: KVHold | None = None,
        reason: str | None = None,
        slot: int | None = None,
        model: ModelInfo | None = None,
    ) -> None:
        """Notes that the scheduler lets the request run; call it when that is decided.

        Args:
            kv: What it holds of the KV cache.
            reason: Why it and not another.
            slot: Slot it is to run on.
            model: The backend it is to run on, where there are several.
        """
        self._admitted = self._now()
        self._kv, self._admission, self._slot, self._answered_by = kv, reason, slot, model

    @property
    def has_tokens(self) -> bool:
        """True once a delta has arrived."""
        return bool(self._tokens)

    def dispatched(self, at_ns: int | None = None) -> None:
        """Notes that the request leaves the queue for the backend; once for each try.

        Args:
            at_ns: When, where it is told afterwards; else now.
        """
        self._dispatched = self._now() if at_ns is None else at_ns
        if self._begun is None:
            self._begun = self._dispatched

    def dispatched_at_once(self) -> None:
        """Notes that there is no queue: the backend had it when it was submitted."""
        self.dispatched(self.opening.submitted_ns - self._anchor_ns)
        self._queueless = True

    @property
    def served_by(self) -> ModelInfo:
        """The model it was sent to."""
        return self._answered_by or self.opening.model

    def work(self) -> Work:
        """What has been done for the request since it was first dispatched; other threads may ask."""
        begun = self.opening.submitted_ns - self._anchor_ns if self._begun is None else self._begun
        return Work(
            begun_ns=begun,
            dispatched_ns=begun if self._dispatched is None else self._dispatched,
            token_ns=self._tokens,
            prefill_tokens=self._prefill_tokens if self._finished is not None else self._expected_prefill(),
            ended_ns=self._finished,
        )

    def _expected_prefill(self) -> int | None:
        if self._prompt_tokens is None:
            return None
        cached = self._kv.cached_estimate if self._kv else None
        return max(0, self._prompt_tokens - (cached or 0))

    def _held(self, told: KVReport | None) -> KVHold | None:
        """What it held of the KV cache: as the backend counted, or else by the engine's books."""
        if told is None:
            return self._kv
        expected = self._kv.cached_estimate if self._kv else None
        return KVHold(pages=told.pages, page_size=told.page_size, estimated=False, cached_estimate=expected)

    def attempt_failed(self, error_type: str) -> None:
        """Notes that a try failed before its first token and that the request waits for another.

        The failure of a last try is not noted here: it is the error that the record ends with.

        Args:
            error_type: Low-cardinality name of why.
        """
        self._attempts += (Attempt(failed_ns=self._now() + self._anchor_ns, error_type=error_type),)
        self._admitted = self._dispatched = None

    def token(self) -> None:
        """Notes that a delta arrived."""
        self._tokens.append(self._now())

    def tokens_at(self, moments_ns: Iterable[int]) -> None:
        """Notes when deltas arrived, on the monotonic clock, told afterwards and in order."""
        self._tokens.extend(moments_ns)

    def held_back(self, nanoseconds: int) -> None:
        """Notes that the reader held the answer back after the latest delta."""
        self._held_back[len(self._tokens) - 1] = nanoseconds

    def finish(
        self,
        end: StreamEnd,
        *,
        text: str,
        reasoning: str = "",
        error: BaseException | None = None,
        hardware: PendingUse | None = None,
        at_ns: int | None = None,
    ) -> FinishedRecord:
        """Freezes what was collected; call once.

        Args:
            end: The backend's last word, or what the engine says in its place.
            text: The answer so far.
            reasoning: The reasoning so far.
            error: What went wrong.
            hardware: What it did to the hardware.
            at_ns: When it ended, on the monotonic clock; else now.
        """
        anchor = self._anchor_ns
        told = end.timings.prefill_tokens
        if told is None and end.usage.input_tokens is not None:
            told = end.usage.input_tokens - (end.usage.cached_tokens or 0)
        self._prefill_tokens = self._expected_prefill() if told is None else told
        self._finished = finished = self._now() if at_ns is None else at_ns
        return FinishedRecord(
            opening=self.opening,
            dispatched_ns=None if self._dispatched is None else self._dispatched + anchor,
            token_ns=array("q", [moment + anchor for moment in self._tokens]),
            held_back_ns=self._held_back,
            finished_ns=finished + anchor,
            finish_reason=end.finish_reason,
            usage=end.usage,
            timings=end.timings,
            text=text,
            reasoning=reasoning,
            response_id=end.response_id,
            response_model=end.response_model,
            slot_id=self._slot if end.slot_id is None else end.slot_id,
            tool_calls=end.tool_calls,
            error=error,
            embeddings=end.embeddings,
            alternatives=end.alternatives,
            queued_ns=None if self._queued is None or self._queueless else self._queued + anchor,
            admitted_ns=None if self._admitted is None else self._admitted + anchor,
            admission=self._admission,
            kv=self._held(end.kv),
            attempts=self._attempts,
            answered_by=self._answered_by,
            hardware=hardware,
            queueless=self._queueless,
        )
