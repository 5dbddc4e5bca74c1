"""From the tokens of a run to what a backend's stream is made of: one delta each, and an end.

A delta has a token's text, or none where its characters are not complete yet or might begin a stop
string: it is told all the same, because it was generated then. What is held back comes with a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

from llamatelemetry.backends.protocol import BackendTimings, FinishReason, StreamEnd, TokenDelta, Usage
from llamatelemetry.transformers.detokenize import Detokenizer, StopStrings
from llamatelemetry.transformers.runs import Run, Task, TokenFeed


def read_answer(
    run: Run, task: Task, *, decode: Callable[[list[int]], str], stop: Sequence[str], name: str, model: str
) -> Iterator[TokenDelta | StreamEnd]:
    """Streams one answer.

    Args:
        run: Makes its tokens.
        task: What it was asked for.
        decode: The tokenizer's decoder, without special tokens.
        stop: Strings that end the answer.
        name: What the answer is called.
        model: What the model is called.

    Raises:
        BackendError: The run failed. Where it was stopped from outside, the stream just ends.
    """
    text, stops = Detokenizer(decode), StopStrings(stop)
    for count, token in enumerate(run.feed, 1):
        reason = _reason_of(token, count, task)
        piece = "" if token in task.eos else text.push(token)
        piece = stops.push(piece + text.flush() if reason else piece)
        if stops.stopped:
            reason = "stop"
        elif reason:
            piece += stops.flush()
        yield TokenDelta(piece)
        if reason:
            kv = run.report()
            run.stop()
            raw: dict[str, Any] = {"admission_wait_ms": run.admission_wait_ms}
            if task.logprobs is not None:
                raw["logprobs"] = task.logprobs.told(count, decode)
            usage = Usage(input_tokens=len(task.prompt), output_tokens=count, cached_tokens=run.cached_tokens)
            yield StreamEnd(
                finish_reason=reason,
                usage=usage,
                timings=_timings_of(run.feed, len(task.prompt) - run.cached_tokens),
                response_id=name,
                response_model=model,
                kv=kv,
                raw=MappingProxyType(raw),
            )
            return


def _reason_of(token: int, count: int, task: Task) -> FinishReason | None:
    if token in task.eos:
        return "stop"
    return "length" if count == task.max_tokens else None


def _timings_of(feed: TokenFeed, computed: int) -> BackendTimings:
    if feed.started_ns is None or feed.first_ns is None or feed.last_ns is None:
        return BackendTimings(prefill_tokens=computed)
    return BackendTimings(
        prefill_ms=(feed.first_ns - feed.started_ns) * 1e-6,
        prefill_tokens=computed,
        decode_ms=(feed.last_ns - feed.first_ns) * 1e-6,
    )
