"""llama-cpp-python, traced without a change to the application: completions, chats, embeddings and streams of them."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final, SupportsIndex

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.backends.request import Operation
from llamatelemetry.llama.instrumentor import LibraryInstrumentor
from llamatelemetry.llama.llama_cpp_call import LlamaCall, current_call, is_working
from llamatelemetry.llama.observed_models import observed_model
from llamatelemetry.llama.observed_requests import observed_request
from llamatelemetry.otel.guard import quietly
from llamatelemetry.otel.instrumentation import InstrumentationSink
from llamatelemetry.otel.patches import Patches
from llamatelemetry.otel.recorder import inside_inference

_GENERATING: Final[Mapping[str, Operation]] = {
    # Passes the library's defaults on to create_completion as if they had been asked for.
    "__call__": "text_completion",
    "create_completion": "text_completion",
    "create_chat_completion": "chat",
}


class LlamaCppPythonInstrumentor(LibraryInstrumentor):
    """Traces every ``llama_cpp.Llama``.

    ``instrument()`` takes ``tracer_provider``, ``meter_provider`` and ``logger_provider``; see
    :class:`~llamatelemetry.otel.instrumentation.InstrumentationSink` for what happens without them.
    """

    library = "llama_cpp"
    requirement = "llama-cpp-python >= 0.2.60, < 0.4"

    def patch(self, library: ModuleType, patches: Patches, sink: InstrumentationSink) -> None:
        """Patches the class, so that models that are there already are traced too."""
        llama = library.Llama
        observer = _Observer(library, sink)
        for name, operation in _GENERATING.items():
            patches.around(llama, name, observer.generating(operation, vars(llama)[name]))
        patches.around(llama, "create_embedding", observer.embedding(vars(llama)["create_embedding"]))
        patches.around(llama, "embed", observer.plain_embedding(vars(llama)["embed"]))
        patches.around(llama, "generate", _around_generate)
        patches.around(llama, "eval", _around_eval)


class _Observer:
    """What stands around the functions of ``Llama``."""

    def __init__(self, library: ModuleType, sink: InstrumentationSink) -> None:
        self._library = library
        self._sink = sink
        self._models: weakref.WeakKeyDictionary[Any, ModelInfo] = weakref.WeakKeyDictionary()

    def generating(self, operation: Operation, function: Any) -> Callable[..., Any]:
        """Around ``create_completion`` and ``create_chat_completion``."""
        names = _parameters(function)

        def around(run: Callable[..., Any], llama: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._begin(operation, llama, dict(zip(names, args, strict=False)) | kwargs)
            if call is None:
                return run(llama, *args, **kwargs)
            try:
                with call.working():
                    answer = run(llama, *args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            if hasattr(answer, "__next__"):
                return call.stream(answer)
            call.answered(answer)
            return answer

        return around

    def embedding(self, function: Any) -> Callable[..., Any]:
        """Around ``create_embedding``."""
        return self.generating("embeddings", function)

    def plain_embedding(self, function: Any) -> Callable[..., Any]:
        """Around ``embed``, which is asked for its count of tokens even if the caller does not want it."""
        signature = inspect.signature(function)

        def around(run: Callable[..., Any], llama: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(llama, *args, **kwargs)
            except TypeError:
                # It is the library's to refuse, in its own words.
                return run(llama, *args, **kwargs)
            wanted = bound.arguments.get("return_count", False)
            call = self._begin("embeddings", llama, bound.arguments) if "return_count" in signature.parameters else None
            if call is None:
                return run(llama, *args, **kwargs)
            bound.arguments["return_count"] = True
            try:
                with call.working():
                    vectors, tokens = run(*bound.args, **bound.kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            call.embedded(vectors, tokens)
            return (vectors, tokens) if wanted else vectors

        return around

    @quietly
    def _begin(self, operation: Operation, llama: Any, given: Mapping[str, Any]) -> LlamaCall | None:
        """Begins to observe; None for what is a part of an inference that is observed, or cannot be one."""
        if is_working() or inside_inference():
            return None
        keeps_content = self._sink.captures_content
        return LlamaCall(
            library=self._library,
            llama=llama,
            request=observed_request(
                operation, _readable(llama, given) if keeps_content else given, keeps_content=keeps_content
            ),
            model=self._model(llama),
            sink=self._sink,
            streaming=bool(given.get("stream")),
            keeps_content=keeps_content,
        )

    def _model(self, llama: Any) -> ModelInfo:
        known = self._models.get(llama)
        if known is None:
            offloads = getattr(self._library, "llama_supports_gpu_offload", None)
            known = self._models[llama] = observed_model(
                llama.model_path,
                # A build without any backend for GPUs uses none of them.
                gpus=() if offloads is not None and not offloads() else None,
            )
        return known


def _around_generate(run: Callable[..., Any], llama: Any, *args: Any, **kwargs: Any) -> Any:
    sampled = run(llama, *args, **kwargs)
    call = current_call(llama)
    observed = None if call is None else call.tokens(sampled, _tokens(args, kwargs))
    return sampled if observed is None else observed


def _around_eval(run: Callable[..., Any], llama: Any, *args: Any, **kwargs: Any) -> Any:
    call = current_call(llama)
    if call is not None:
        call.evaluating(_tokens(args, kwargs))
    return run(llama, *args, **kwargs)


def _tokens(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What ``generate`` and ``eval`` are to work through, which both are given first."""
    return args[0] if args else kwargs.get("tokens")


def _parameters(function: Any) -> tuple[str, ...]:
    """Names of what a method may be given by position."""
    return tuple(inspect.signature(function).parameters)[1:]


def _readable(llama: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments, with a prompt that was given as tokens in words."""
    prompt = given.get("prompt")
    if not isinstance(prompt, list):
        return given
    known = llama.n_vocab()
    if not all(isinstance(token, SupportsIndex) and 0 <= token.__index__() < known for token in prompt):
        # llama.cpp ends the process that asks it what a token says that there is not.
        return given
    return {**given, "prompt": llama.detokenize(prompt).decode(errors="replace")}
