"""Models of transformers as a backend: requests in the engine's shape, tokens from inside this process.

A model runs in one continuous batch over a paged cache, whose pages are told as they are. One that
transformers' batching does not cover runs with plain ``generate``, one request at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from llamatelemetry.backends.protocol import KVState, ModelInfo, Placement, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import (
    BackendError,
    BackendStartError,
    InvalidValueError,
    LlamatelemetryError,
)
from llamatelemetry.transformers.answer import read_answer
from llamatelemetry.transformers.continuous import ContinuousBatch
from llamatelemetry.transformers.described_model import describe
from llamatelemetry.transformers.layout import Sizes, sizes_of
from llamatelemetry.transformers.loading import load_model, load_tokenizer
from llamatelemetry.transformers.prompts import Prompts
from llamatelemetry.transformers.running import Runner, start_runner
from llamatelemetry.transformers.runtime import load_transformers
from llamatelemetry.transformers.tasks import task_of


class _Opened(NamedTuple):
    """What there is from ``open`` to ``close``."""

    model: Any
    tokenizer: Any
    prompts: Prompts
    sizes: Sizes
    info: ModelInfo


class TransformersBackend:
    """Implements :class:`~llamatelemetry.backends.protocol.Backend` over a model of transformers.

    It is :class:`~llamatelemetry.backends.protocol.Restartable`, because a batch can die and be
    started anew, and :class:`~llamatelemetry.backends.protocol.CacheReporting`.

    A model that was loaded here is let go of by :meth:`close`. One that was given stays as it was:
    while it is batched its attention is another one that reads pages, and then its own again.

    Args:
        model_or_id: A folder, a GGUF file, a name on the hub, or a ``PreTrainedModel`` that is loaded.
        tokenizer: Its tokenizer, or where that is; where the model is from, when None.
        device: ``cuda``, ``cpu`` and so on, or ``auto``, for a model that is loaded here. A GPU if there
            is one, when None.
        dtype: Type of the weights of a model that is loaded here; that of its files when None.
        attn: Implementation of attention of a model that is loaded here; transformers chooses when None.
        slots: Requests run at once, of a model that is batched; 16 when None.
        context_length: Tokens that one request may have, prompt and answer together; what the model is
            made for when None, on a CPU up to 4096.
        kv_tokens: Tokens that the cache holds, for all requests together; when None what is free on the
            GPU, and on a CPU four contexts.
        page_size: Tokens in a page of the cache; 32 when None.
        max_batch_tokens: Tokens that one step computes; longer prompts take several.
        batching: True fails where the model cannot be batched, and False does not try; None tries.
        model_options: More arguments for ``from_pretrained``, of model and tokenizer.

    Raises:
        InvalidValueError: A model that is loaded came with what only loading can give it, or nothing
            names a model.
    """

    def __init__(
        self,
        model_or_id: Any,
        tokenizer: Any = None,
        device: Any = None,
        dtype: Any = None,
        attn: str | None = None,
        *,
        slots: int | None = None,
        context_length: int | None = None,
        kv_tokens: int | None = None,
        page_size: int | None = None,
        max_batch_tokens: int | None = None,
        batching: bool | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        loading = {"device": device, "dtype": dtype, "attn": attn, "options": model_options}
        if isinstance(model_or_id, str) and not model_or_id:
            raise InvalidValueError("model_or_id", model_or_id, "give a folder, a GGUF file or a name on the hub")
        if not isinstance(model_or_id, str | Path):
            _check_model(model_or_id, loading)
        self._given = model_or_id
        self._tokenizer = tokenizer
        self._loading = loading
        self._batching = batching
        self._wanted = {
            "slots": slots,
            "context_length": context_length,
            "kv_tokens": kv_tokens,
            "page_size": page_size,
            "max_batch_tokens": max_batch_tokens,
        }
        self._opened: _Opened | None = None
        self._runner: Runner | None = None
        self._lifecycle = threading.Lock()
        self.why_not_batched: str = ""
        """Why it runs one request at a time; empty where it is batched, and before it is open."""

    def open(self) -> ModelInfo:
        """Loads the model, finds out how it can be run, and describes it.

        Raises:
            MissingDependencyError: torch, transformers or what the model needs is not installed; carries
                the command that installs it.
            InvalidValueError: There is no such device or dtype, or no tokenizer to be found.
            ModelFileError: The model is not found, or its files cannot be read.
            OutOfMemoryError: The model, or its cache, does not fit.
            BackendStartError: It cannot be loaded, or must be batched and cannot be.
        """
        with self._lifecycle:
            if self._opened is None:
                self._opened = self._open()
            return self._opened.info

    def alive(self) -> bool:
        """False once its batch has died, and when it is not open."""
        runner = self._runner
        return runner is not None and (not isinstance(runner, ContinuousBatch) or runner.is_running)

    def restart(self) -> ModelInfo:
        """Starts a new batch in place of one that has died.

        Raises:
            BackendStartError: There is no room for it any more, or the backend is closed.
        """
        with self._lifecycle:
            opened, runner = self._opened, self._runner
            if opened is None or runner is None:
                raise BackendStartError("the transformers backend is closed: open it first")
            if not self.alive():
                runner.close()
                try:
                    self._runner = ContinuousBatch(opened.model, opened.sizes.layout)
                except Exception as error:
                    raise BackendStartError(f"no new batch could be started: {error}") from error
            return opened.info

    def kv_state(self) -> KVState | None:
        """The paged cache at this moment; None where there is none, as with plain ``generate``."""
        runner = self._runner
        return runner.state() if isinstance(runner, ContinuousBatch) else None

    def count_prompt_tokens(self, request: InferenceRequest) -> int:
        """Applies the chat template and counts."""
        prompts = self._live().prompts
        if request.input is not None:
            return sum(len(prompts.encode(InferenceRequest(prompt=text))) for text in request.input)
        return len(prompts.encode(request))

    def tokenize(self, text: str) -> list[int]:
        """The ids of plain text."""
        return self._live().prompts.tokenize(text)

    def stream(self, request: InferenceRequest, placement: Placement) -> Iterator[TokenDelta | StreamEnd]:
        """Streams one answer, a delta for each token; see the protocol.

        Tool definitions are given to a chat template that has a place for them; calls stay in the text.
        The end's ``raw`` has ``admission_wait_ms``, which is how long the batch let it wait, and
        ``logprobs`` where the request asks for them.

        Raises:
            NotSupportedError: Embeddings, a grammar or a response format; or messages or tools that the
                chat template does not take.
            ContextOverflowError: The prompt leaves no room for an answer.
            OutOfMemoryError: Memory ran out while it generated.
            BackendError: The typed reason.
        """
        opened, runner = self._live(), self._runner
        task = task_of(request, opened.prompts, opened.model, opened.info)
        if runner is None or placement.cancel.cancelled:
            return
        run = runner.run(task)
        placement.cancel.on_cancel(run.stop)
        try:
            yield from read_answer(
                run,
                task,
                decode=opened.prompts.decode,
                stop=request.stop,
                name=f"transformers-{request.request_id}",
                model=opened.info.model,
            )
        except LlamatelemetryError:
            # A cancelled answer breaks off wherever it is; nobody waits for the details.
            if not placement.cancel.cancelled:
                raise
        finally:
            run.close()

    def close(self) -> None:
        """Ends what still streams, gives a model its attention back, and lets go of what was loaded; idempotent."""
        with self._lifecycle:
            runner, self._runner, self._opened = self._runner, None, None
            if runner is not None:
                runner.close()

    def _live(self) -> _Opened:
        opened = self._opened
        if opened is None:
            raise BackendError("the transformers backend is closed: open it, or make a new one")
        return opened

    def _open(self) -> _Opened:
        load_transformers("the transformers backend")
        tokenizer = self._load_tokenizer()
        model = self._given
        if isinstance(model, str | Path):
            model = load_model(model, **self._loading)
        sizes = sizes_of(model, **self._wanted)
        described = describe(model)
        if isinstance(self._given, str | Path) and Path(self._given).suffix == ".gguf":
            described = replace(described, model=Path(self._given).stem)
        self._runner, self.why_not_batched = start_runner(model, described.model, sizes.layout, batching=self._batching)
        return _Opened(
            model=model,
            tokenizer=tokenizer,
            prompts=Prompts(tokenizer, described.model),
            sizes=sizes,
            info=_info_of(described, sizes, self._runner),
        )

    def _load_tokenizer(self) -> Any:
        given = self._tokenizer
        if given is None:
            given = self._given
            if not isinstance(given, str | Path):
                given = getattr(given.config, "_name_or_path", None)
            if not given:
                raise InvalidValueError(
                    "tokenizer", None, "give the model's tokenizer: it does not say where it is from"
                )
        return load_tokenizer(given, self._loading["options"]) if isinstance(given, str | Path) else given


def _check_model(model: Any, loading: Mapping[str, Any]) -> None:
    kind = type(model).__name__
    if not hasattr(model, "generate") or not hasattr(model, "config"):
        raise InvalidValueError(
            "model_or_id", kind, "give a folder, a GGUF file, a name on the hub, or a PreTrainedModel"
        )
    if model.training:
        raise InvalidValueError("model_or_id", kind, "it is in training mode: call its eval() first")
    for name, value in loading.items():
        if value is not None:
            shown = "model_options" if name == "options" else name
            raise InvalidValueError(
                shown, value, "it is for a model that is loaded here, and this one is loaded already"
            )


def _info_of(described: ModelInfo, sizes: Sizes, runner: Runner) -> ModelInfo:
    info = replace(described, owned=True, context_length=sizes.context_length)
    if not isinstance(runner, ContinuousBatch):
        return info
    watch = runner.watch
    kv_tokens = watch.limit * watch.page_size
    return replace(
        info,
        slots=sizes.layout.slots,
        context_length=kv_tokens if sizes.context_length is None else min(sizes.context_length, kv_tokens),
        kv_tokens=kv_tokens,
        kv_page_size=watch.page_size,
        kv_pages_shared=watch.shares_pages,
        kv_bytes_per_token=watch.bytes_per_token,
    )
