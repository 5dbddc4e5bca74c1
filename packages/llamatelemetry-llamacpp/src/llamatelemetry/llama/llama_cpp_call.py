"""One call of a ``llama_cpp.Llama`` while it is observed: its tokens as they are sampled, its chunks as they leave.

llama-cpp-python counts nothing in a stream, and its chunks are not its tokens: a character may take
several, and what may become a stop sequence is held back. So tokens are counted where the model samples
them, and cached ones follow from how much of the prompt is evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sized
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from functools import partial
from types import ModuleType
from typing import Any, Final

from llamatelemetry.backends.protocol import FinishReason, ModelInfo, Usage
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.observation import Observation
from llamatelemetry.inference.sink import RecordSink
from llamatelemetry.llama.observed_chunks import HeardAnswer
from llamatelemetry.llama.relay import relay
from llamatelemetry.otel.guard import quietly

_now: Final = time.perf_counter_ns
_current: ContextVar[LlamaCall | None] = ContextVar("llamatelemetry_llama_cpp_call", default=None)
_LONG_PAUSE_NS: Final = 50_000
"""A reader that takes longer to ask for more held the model back: it does nothing meanwhile."""

EndTest = Callable[[int], bool]
"""Whether a token ends an answer, instead of being a part of it."""


def current_call(llama: Any) -> LlamaCall | None:
    """The call that this thread works for, if it is one of that model's."""
    call = _current.get()
    return call if call is not None and call.llama is llama else None


def is_working() -> bool:
    """Whether this thread works for a call already."""
    return _current.get() is not None


def end_test(library: ModuleType, llama: Any) -> EndTest:
    """The test by which the library itself stops, which differs between its versions.

    Args:
        library: ``llama_cpp``.
        llama: A model.
    """
    if hasattr(library, "llama_vocab_is_eog"):
        return partial(library.llama_vocab_is_eog, library.llama_model_get_vocab(llama.model))
    if hasattr(library, "llama_token_is_eog"):
        return partial(library.llama_token_is_eog, llama.model)
    last: int = llama.token_eos()
    return last.__eq__


class LlamaCall:
    """A call, from its beginning to the end of its answer, which may be read long afterwards.

    Args:
        library: ``llama_cpp``.
        llama: The model it is made on.
        request: What is asked.
        model: What is known of the model.
        sink: Takes the record.
        streaming: Whether the answer is read piece by piece.
        keeps_content: Whether texts may be exported.
    """

    def __init__(
        self,
        *,
        library: ModuleType,
        llama: Any,
        request: InferenceRequest,
        model: ModelInfo,
        sink: RecordSink,
        streaming: bool,
        keeps_content: bool,
    ) -> None:
        self.llama = llama
        self._library = library
        self._heard = HeardAnswer(keeps_content=keeps_content)
        self._generations = 0
        self._prompt_tokens = 0
        self._cached_tokens: int | None = 0
        self._output_tokens = 0
        self._awaits_prompt: int | None = None
        self._left_ns: int | None = None
        self._held_ns = 0
        self._through = False
        self._observation = Observation(request, model, sink, streaming=streaming)
        self._observation.started()

    def working(self) -> AbstractContextManager[None]:
        """While it is entered, this thread works for the call, and what it does is a part of it."""
        return _Working(self)

    def stream(self, chunks: Iterator[Any]) -> Generator[Any, Any, Any]:
        """The chunks, observed."""
        return relay(chunks, self._chunk, self._closed)

    @quietly
    def tokens(self, sampled: Iterator[int], prompt: Sized) -> Generator[int, Any, Any]:
        """The tokens that the model samples, observed."""
        ends = end_test(self._library, self.llama)
        if not self._generations:
            self._observation.expects(len(prompt))
        self._generations += 1
        self._prompt_tokens += len(prompt)
        self._awaits_prompt = len(prompt)

        def step(resume: Callable[[Any], int], sent: Any) -> int:
            token = resume(sent)
            self._sampled(token, ends)
            return token

        return relay(sampled, step, lambda: None)

    @quietly
    def evaluating(self, tokens: Sized) -> None:
        """Notes that the model is to work through tokens of a prompt, or through one that it has sampled."""
        if self._awaits_prompt is not None:
            if self._cached_tokens is not None:
                self._cached_tokens += self._awaits_prompt - len(tokens)
            self._awaits_prompt = None
        elif not self._generations:
            # Somebody evaluates a prompt by hand, as those do who put pictures into one; generation
            # then finds in the cache what was computed for this very call.
            self._cached_tokens = None

    @quietly
    def answered(self, answer: Any) -> None:
        """Notes a whole answer, and the end with it."""
        self._heard.hear(answer)
        self._finish()

    @quietly
    def embedded(self, vectors: Any, tokens: int | None) -> None:
        """Notes embeddings that came without any words, and the end with them."""
        self._heard.hear({"data": [{"embedding": vectors}]})
        self._finish(Usage(input_tokens=tokens))

    @quietly
    def failed(self, error: BaseException) -> None:
        """Notes that it ended with an error."""
        self._finish(reason="error", error=error)

    @quietly
    def _sampled(self, token: int, ends: EndTest) -> None:
        if not ends(token):
            self._output_tokens += 1
            self._observation.token()
            self._held_ns = 0

    def _chunk(self, resume: Callable[[Any], Any], sent: Any) -> Any:
        if self._left_ns is not None:
            self._returned(_now() - self._left_ns)
        try:
            with self.working():
                chunk = resume(sent)
        except StopIteration:
            self._through = True
            raise
        except BaseException as error:
            self.failed(error)
            raise
        self._hear(chunk)
        self._left_ns = _now()
        return chunk

    @quietly
    def _hear(self, chunk: Any) -> None:
        self._heard.hear(chunk)
        if self._heard.complete:
            # Now, and not when it is closed: the reader may keep it and never ask again.
            self._finish()

    @quietly
    def _returned(self, held_ns: int) -> None:
        if held_ns >= _LONG_PAUSE_NS and self._output_tokens:
            self._held_ns += held_ns
            self._observation.held_back(self._held_ns)

    @quietly
    def _closed(self) -> None:
        self._finish(reason=None if self._through else "cancelled")

    def _finish(
        self, usage: Usage | None = None, *, reason: FinishReason | None = None, error: BaseException | None = None
    ) -> None:
        end = self._heard.end(self._usage() if usage is None else usage, cut=reason)
        self._observation.finish(end, text=self._heard.text, reasoning=self._heard.reasoning, error=error)

    def _usage(self) -> Usage:
        """Our own counts, wherever the model generated: a chat may take several generations, and then tells of one."""
        if not self._generations:
            return self._heard.usage()
        return Usage(
            input_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            cached_tokens=None if self._awaits_prompt is not None else self._cached_tokens,
        )


class _Working:
    """A class, because it is entered once for each chunk."""

    __slots__ = ("_active", "_call", "_token")

    def __init__(self, call: LlamaCall) -> None:
        self._call = call
        self._active: AbstractContextManager[object] = call._observation.active()  # noqa: SLF001 - a part of the call

    def __enter__(self) -> None:
        self._token: Token[LlamaCall | None] = _current.set(self._call)
        self._active.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._active.__exit__(*raised)  # type: ignore[arg-type] # As they were given.
        _current.reset(self._token)
