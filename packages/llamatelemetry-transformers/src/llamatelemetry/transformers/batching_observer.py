"""Observes transformers' continuous batching: every request that is added to a manager, until it ends.

A request is added in one thread and worked on in another, so what is known of it travels with its
state. States are forked for several answers and made anew when they lose their place in the cache;
all that came of one request leads back to it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from llamatelemetry.backends.protocol import Alternative, FinishReason, StreamEnd, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.inference.observation import Observation
from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.otel.patches import Patches
from llamatelemetry.transformers.batch_rows import token_ids
from llamatelemetry.transformers.described_model import describe
from llamatelemetry.transformers.generate_observer import is_untouched
from llamatelemetry.transformers.generate_settings import GenerateSettings

_FOLDER: Final = "transformers.generation.continuous_batching"
REQUESTS: Final = f"{_FOLDER}.requests"
SCHEDULER: Final = f"{_FOLDER}.scheduler"
MANAGER: Final = f"{_FOLDER}.continuous_api"

_KEY: Final = "_llamatelemetry_request"

_adding: Final[ContextVar[Any]] = ContextVar("llamatelemetry_adding", default=None)
"""The manager that this context adds a request to."""


class BatchingObserver:
    """Makes an observation of every request.

    Args:
        sink: Takes the records.
        patches: Holds what is put in place.
    """

    def __init__(self, sink: InstrumentationSink, patches: Patches) -> None:
        self._sink = sink
        self._patches = patches
        self._open: weakref.WeakSet[BatchedRequest] = weakref.WeakSet()
        self._lock = threading.Lock()

    @quietly
    def patch_requests(self, module: ModuleType) -> None:
        """Patches :data:`REQUESTS` once it is imported."""
        state = module.RequestState
        self._patches.around(state, "__init__", self._init)
        self._patches.around_setter(state, "status", _set_status)
        self._patches.around(state, "update_and_check_completion", _update)
        self._patches.around(state, "fork", _descend)
        self._patches.around(state, "create_equivalent_initial_request", _descend)

    @quietly
    def patch_scheduler(self, module: ModuleType) -> None:
        """Patches :data:`SCHEDULER` once it is imported."""
        self._patches.around(module.Scheduler, "set_request_cancellation", _set_cancelled)
        self._patches.around(module.Scheduler, "clear_cancelled_requests", _clear_cancelled)

    @quietly
    def patch_manager(self, module: ModuleType) -> None:
        """Patches :data:`MANAGER` once it is imported."""
        self._patches.around(module.ContinuousBatchingManager, "add_request", self._add_request)
        self._patches.around(module.ContinuousBatchingManager, "stop", self._stop)
        self._patches.around(module.ContinuousBatchProcessor, "_handle_request_error", _fail_first)
        self._patches.around(module.ContinuousBatchingManager, "_handle_critical_error", _fail_waiting)
        router = getattr(module, "OutputRouter", None)  # Before 5.5 there was none.
        if router is not None:
            self._patches.around(router, "fail_and_deliver", _fail_second)

    def close(self) -> None:
        """Ends what is open, since its end will not be seen."""
        for request in self._all_open():
            request.end("cancelled")

    def _all_open(self) -> tuple[BatchedRequest, ...]:
        with self._lock:  # While they are gone through, another thread must not add one.
            return tuple(self._open)

    def _stop(self, original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(manager, *args, **kwargs)
        finally:
            self._end_of(manager)

    @quietly
    def _end_of(self, manager: Any) -> None:
        # Some versions take requests after their thread has died, and say nothing of them ever.
        if not manager.is_running():
            for request in self._all_open():
                if request.is_of(manager):
                    request.end("cancelled")

    def _add_request(self, original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
        if is_untouched():
            return original(manager, *args, **kwargs)
        adding = SimpleNamespace(manager=manager, request=None)
        token = _adding.set(adding)
        try:
            return original(manager, *args, **kwargs)
        except BaseException as error:
            if adding.request is not None:
                adding.request.end("error", error=error)
            raise
        finally:
            _adding.reset(token)

    def _init(self, original: Callable[..., Any], state: Any, *args: Any, **kwargs: Any) -> None:
        original(state, *args, **kwargs)
        adding = _adding.get()
        if adding is not None and adding.request is None:
            adding.request = self._begin(adding.manager, state)

    @quietly
    def _begin(self, manager: Any, state: Any) -> BatchedRequest:
        request = BatchedRequest(manager, state, self._sink)
        setattr(state, _KEY, request)
        with self._lock:
            self._open.add(request)
        return request


class BatchedRequest:
    """One request, whatever states it goes through.

    The thread that adds it makes it; the manager's thread does the rest, but that another may end it.
    """

    def __init__(self, manager: Any, state: Any, sink: InstrumentationSink) -> None:
        own = getattr(state, "logit_processor_kwargs", None) or {}
        answers = 1 + (state.num_children or 0)
        asked = {"generation_config": manager.generation_config, **own, "num_return_sequences": answers}
        request = GenerateSettings(manager.model, asked).request(InferenceRequest(prompt=""), state.max_new_tokens)
        self._observation = Observation(
            request, describe(manager.model), sink, streaming=bool(getattr(state, "streaming", False))
        )
        self._manager = weakref.ref(manager)
        self._input_tokens = len(state.initial_tokens)
        self._name = state.request_id
        self._ends = token_ids(state.eos_token_id)
        self._answers_left = answers
        self._moments: list[int] = []
        self._tokens = 0
        self._is_started = False
        self._reasons: dict[str, FinishReason] = {}
        self._lock = threading.Lock()
        self._is_ended = False

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchedRequest:
        """Itself: a state that is forked is still the same request's."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Nothing: another process that is sent a state has its own books."""
        return (type(None), ())

    def is_of(self, manager: Any) -> bool:
        """Whether it was added to a manager."""
        return self._manager() is manager

    def started(self, at_s: float) -> None:
        """Notes that it is no longer waiting; the first time counts."""
        if not self._is_started and at_s > 0:
            self._is_started = True
            self._observation.started(round(at_s * 1e9))

    def token(self, state: Any, moment_ns: int) -> None:
        """Notes that a state has another token."""
        self._tokens += 1
        if state.request_id == self._name:
            self._moments.append(moment_ns)

    def complete(self, state: Any) -> None:
        """Notes that a state has all its tokens."""
        is_ended = not self._ends.isdisjoint(state.generated_tokens[-1:])
        self._answered(state, "stop" if is_ended else "length")

    def cancelled(self, state: Any) -> None:
        """Notes that a state is given up, and with it those that it would have been forked into."""
        self._answered(state, "cancelled")

    def _answered(self, state: Any, reason: FinishReason) -> None:
        with self._lock:  # Whoever cancels may be another thread.
            if state.request_id in self._reasons:
                return
            self._reasons[state.request_id] = reason
            self._answers_left -= 1 + (state.num_children or 0)
            if self._answers_left > 0:
                return
        # Answers are made in any order. Their names end with numbers, but that of the first, which is the shortest.
        names = sorted(self._reasons, key=lambda name: (len(name), name))
        self.end(*map(self._reasons.__getitem__, names))

    def end(self, reason: FinishReason, *others: FinishReason, error: BaseException | None = None) -> None:
        """Ends it; once.

        Args:
            reason: Why the first answer ended, or all.
            others: Why the others did.
            error: What went wrong.
        """
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
        self._observation.tokens_at(self._moments)
        usage = Usage(input_tokens=self._input_tokens, output_tokens=self._tokens)
        alternatives = tuple(Alternative(finish_reason=other) for other in others)
        end = StreamEnd(finish_reason=reason, usage=usage, alternatives=alternatives)
        self._observation.finish(end, error=error)


def _request_of(state: Any) -> BatchedRequest | None:
    # Not by getattr(): a state that has none is asked at every token.
    request: BatchedRequest | None = vars(state).get(_KEY)
    return request


def _set_status(original: Callable[..., Any], state: Any, value: Any) -> None:
    original(state, value)
    request = vars(state).get(_KEY)
    if request is not None:
        request.started(state.lifespan[0])


def _update(original: Callable[..., Any], state: Any, *args: Any, **kwargs: Any) -> Any:
    request = _request_of(state)
    if request is None:
        return original(state, *args, **kwargs)
    moment_ns, before = SYSTEM_CLOCK.monotonic_ns(), len(state.generated_tokens)
    is_complete = original(state, *args, **kwargs)
    _note(request, state, moment_ns, before, is_complete)
    return is_complete


@quietly
def _note(request: BatchedRequest, state: Any, moment_ns: int, before: int, is_complete: Any) -> None:
    if len(state.generated_tokens) > before:
        request.token(state, moment_ns)
    if is_complete:
        request.complete(state)


def _descend(original: Callable[..., Any], state: Any, *args: Any, **kwargs: Any) -> Any:
    descendant = original(state, *args, **kwargs)
    request = _request_of(state)
    if request is not None:
        setattr(descendant, _KEY, request)
    return descendant


def _set_cancelled(original: Callable[..., Any], scheduler: Any, request_id: Any) -> Any:
    _cancel(scheduler, request_id)
    return original(scheduler, request_id)


def _clear_cancelled(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    # A request may be cancelled before the scheduler has it; now it has.
    for request_id in tuple(getattr(scheduler, "_requests_to_cancel", ())):
        _cancel(scheduler, request_id)
    return original(scheduler, *args, **kwargs)


@quietly
def _cancel(scheduler: Any, request_id: Any) -> None:
    state = scheduler.active_requests.get(request_id) or scheduler.waiting_requests.get(request_id)
    request = None if state is None else _request_of(state)
    if request is not None:
        request.cancelled(state)


def _fail_first(original: Callable[..., Any], owner: Any, error: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
    _fail(state, error)
    return original(owner, error, state, *args, **kwargs)


def _fail_second(original: Callable[..., Any], owner: Any, state: Any, error: Any, *args: Any, **kwargs: Any) -> Any:
    _fail(state, error)
    return original(owner, state, error, *args, **kwargs)


def _fail_waiting(original: Callable[..., Any], manager: Any, error: Any, *args: Any, **kwargs: Any) -> Any:
    # Some versions drop what nobody has taken from the queue yet without a word.
    for state in tuple(manager.input_queue.queue):
        _fail(state, error)
    return original(manager, error, *args, **kwargs)


@quietly
def _fail(state: Any, error: BaseException) -> None:
    request = _request_of(state)
    if request is not None:
        request.end("error", error=error)
