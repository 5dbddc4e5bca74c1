"""transformers' continuous batching: requests join and leave one running batch over one paged cache.

The batch runs in a thread of transformers'. This hands it requests, takes each one's tokens where
they are made, and ends it in a way that leaves no thread behind. Importing it imports nothing of
transformers; starting a batch does.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import context as otel_context

from llamatelemetry.backends.protocol import KVReport, KVState
from llamatelemetry.errors import (
    BackendConnectionError,
    BackendError,
    BackendResponseError,
    OutOfMemoryError,
    StreamInterruptedError,
)
from llamatelemetry.otel.recorder import OUTER_INFERENCE_KEY
from llamatelemetry.transformers.batch_mends import give_back_attention, lend_attention, mend
from llamatelemetry.transformers.batch_sampler import BatchSampler
from llamatelemetry.transformers.memory_errors import explained_out_of_memory, is_out_of_memory
from llamatelemetry.transformers.paged_cache import PagedCacheWatch
from llamatelemetry.transformers.runs import Task, TokenFeed

LESS_CACHE: Final = "give a smaller kv_tokens or context_length, or fewer slots"

_STOP_S: Final = 10.0
"""Most seconds to wait for the step that runs when a batch is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLayout:
    """How large a batch and its cache are.

    Attributes:
        slots: Requests in it at once.
        page_size: Tokens in a page.
        num_blocks: Pages there are; None fills the device's free memory.
        max_batch_tokens: Most tokens that one step computes; longer prompts take several steps.
    """

    slots: int
    page_size: int
    num_blocks: int | None
    max_batch_tokens: int


class ContinuousBatch:
    """A running batch of one model. Thread-safe.

    Args:
        model: A ``PreTrainedModel``. An eager attention is switched to one that reads pages, and so of no
            use to anybody else, until the last batch of this model is closed.
        layout: Sizes.

    Raises:
        OutOfMemoryError: There is no room for the cache.
        Exception: Whatever transformers raises of a model that its batching does not know.
    """

    def __init__(self, model: Any, layout: BatchLayout) -> None:
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        config = ContinuousBatchingConfig(
            page_size=layout.page_size,
            num_blocks=layout.num_blocks,
            max_batch_tokens=layout.max_batch_tokens,
            max_requests_per_batch=layout.slots,
            # The engine lets nothing in that has no room, so that none has to be kept back.
            safety_margin=0.0,
            # What it would switch to may be fetched from the network.
            auto_switch_to_flash=False,
            # Each request is drawn for by its own rules, which a recorded graph could not follow.
            use_cuda_graph=False,
            use_async_batching=False,
        )
        self._numbers = itertools.count(1)
        lend_attention(model)
        try:
            with explained_out_of_memory(model.device, "while its KV cache was made", LESS_CACHE), untraced():
                self._manager = _manager(model, config)
            self.watch: PagedCacheWatch = PagedCacheWatch(self._manager.batch_processor.cache)
        except BaseException:
            give_back_attention(model)
            raise
        self._outlet = _Outlet(self._manager)
        self._manager.output_router.output_queue = self._outlet
        # A thread is a daemon where the one that starts it is: the interpreter's exit must not wait for this one.
        starter = threading.Thread(target=self._manager.start, daemon=True)
        starter.start()
        starter.join()
        self._end = weakref.finalize(self, _stop, self._manager, self._outlet, self.watch)

    @property
    def is_running(self) -> bool:
        """False once it has died or is being ended."""
        return _takes_requests(self._manager)

    @property
    def capacity(self) -> int:
        """Most tokens, of its prompt and its answer together, that one request can have here."""
        return self.watch.capacity

    def state(self) -> KVState:
        """Its cache at this moment."""
        return self.watch.state()

    def run(self, task: Task) -> BatchRun:
        """Lets a request join.

        Raises:
            BackendResponseError: It needs more than the whole cache, and would end the batch for everybody.
            BackendConnectionError: The batch has died; start another.
        """
        self._refuse_if_too_long(task)
        name = f"transformers-{next(self._numbers)}"
        run = BatchRun(name, self._manager, self._outlet, self.watch)
        added = self._manager.add_request(
            task.prompt,
            request_id=name,
            max_new_tokens=task.max_tokens,
            eos_token_id=sorted(task.eos),
            streaming=True,
            sampling=task.sampling,
            logprobs=task.logprobs,
        )
        if added is None:
            run.close()
            raise BackendConnectionError("continuous batching", "its thread has ended", "a new batch has to be started")
        return run

    def close(self) -> None:
        """Ends it, and every request in it with an error; idempotent."""
        self._end()

    def _refuse_if_too_long(self, task: Task) -> None:
        # The last token of an answer is told and not kept.
        if len(task.prompt) + task.max_tokens - 1 > self.capacity:
            lengths = f"{len(task.prompt)} tokens of the prompt and {task.max_tokens} more"
            raise BackendResponseError(
                f"{lengths} do not fit the KV cache, which holds {self.capacity} for one request: "
                "ask for fewer, or give a larger kv_tokens",
                kind="continuous_batching",
            )


class BatchRun:
    """One request in a batch.

    Attributes:
        name: What the batch calls it.
        feed: Its tokens.
        admission_wait_ms: Milliseconds that it waited to be let into a step; None before.
        has_left: Whether the batch is done with it, or is to be.
    """

    def __init__(self, name: str, manager: Any, outlet: _Outlet, watch: PagedCacheWatch) -> None:
        self.name: str = name
        self.feed: TokenFeed = TokenFeed(lambda: _takes_requests(manager))
        self.admission_wait_ms: float | None = None
        self._manager = manager
        self._outlet = outlet
        self._watch = watch
        self._holding = watch.expect(name)
        self._received = 0
        self.has_left: bool = False
        outlet.runs[name] = self

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the cache."""
        return self._holding.cached_tokens

    def report(self) -> KVReport:
        """Pages it has held."""
        return self._watch.report(self.name)

    def receive(self, output: Any) -> None:
        """Takes what the batch has made of it so far; called in the batch's thread."""
        if self.feed.started_ns is None and output.lifespan[0] > 0:
            self.feed.started_ns = round(output.lifespan[0] * 1e9)
            self.admission_wait_ms = max(0.0, output.lifespan[0] - output.created_time) * 1e3
        self._holding.started = True
        for token in output.generated_tokens[self._received :]:
            self._received += 1
            self.feed.put(token)
        if output.is_finished():
            self.has_left = True
            self.feed.end(None if output.error is None else self._failure(output.error))

    def stop(self) -> None:
        """Leaves the batch, before its next step."""
        if not self.has_left:
            self.has_left = True
            self._manager.cancel_request(self.name)
        self.feed.cut()

    def close(self) -> None:
        """Leaves the batch and is forgotten."""
        self.stop()
        self._outlet.runs.pop(self.name, None)
        self._watch.forget(self.name)

    def _failure(self, told: str) -> BackendError:
        # Told as text, and where the error itself is being handled: it may have no words.
        error = sys.exc_info()[1]
        if is_out_of_memory(told) or (error is not None and is_out_of_memory(error)):
            return OutOfMemoryError(str(self._manager.model.device), "while it generated", LESS_CACHE)
        if _takes_requests(self._manager):
            return BackendResponseError(f"continuous batching refused the request: {told}", kind="continuous_batching")
        return StreamInterruptedError(f"the batch ended: {told or type(error).__name__}")


class _Outlet:
    """Stands where transformers puts what it has made, which is a queue that all requests would share."""

    def __init__(self, manager: Any) -> None:
        self.runs: dict[str, BatchRun] = {}
        self._cancel = weakref.WeakMethod(manager.cancel_request)

    def put(self, output: Any) -> None:
        run = self.runs.get(output.request_id)
        if run is not None and not run.has_left:
            run.receive(output)
        elif not output.is_finished() and (cancel := self._cancel()) is not None:
            # A request that leaves before the batch has seen it is let in all the same.
            cancel(output.request_id)

    def empty(self) -> bool:
        return True


@contextmanager
def untraced() -> Iterator[None]:
    """What is generated meanwhile is nobody's inference: no instrumentor makes a span of it."""
    token = otel_context.attach(otel_context.set_value(OUTER_INFERENCE_KEY, True))
    try:
        yield
    finally:
        otel_context.detach(token)


def _takes_requests(manager: Any) -> bool:
    return bool(manager.is_running()) and manager.background_thread_status.can_accept_new_requests() is None


def _manager(model: Any, config: Any) -> Any:
    """A manager of our own, with its cache: a model may have one already, of the application's, and would give that."""
    from transformers import GenerationConfig
    from transformers.generation.continuous_batching import ContinuousBatchingManager

    generation = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=None)
    manager = ContinuousBatchingManager(model, generation, config)
    # Other batches of this model may need its attention for longer than this one.
    manager._original_attn_impl = None  # noqa: SLF001
    manager.logit_processor = BatchSampler()
    manager.warmup()  # Makes the cache, here and now.
    mend(manager.batch_processor)
    return manager


def _stop(manager: Any, outlet: _Outlet, watch: PagedCacheWatch) -> None:
    manager.stop(block=True, timeout=_STOP_S, hard_stop=True)
    if not manager.is_running():
        manager.destroy()  # It would wait again, and without end.
    outlet.runs.clear()
    watch.end()
    give_back_attention(manager.model)
